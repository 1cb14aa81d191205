"""Preparing data on one node and on two: test hosts (tests/hosts), each held to a share of a core.

    python benchmarks/nodes.py [FILE.csv ...] [--people 1000] [--share 0.25] [--repeats 2]

Makes a file as benchmarks/data.py does, a head and two workers of one CPU in namespaces of this
machine, and puts each worker into a cgroup (v1) with --share of a core, so that the two together
and the head do not want more than two cores have. A job on the head prepares the file with the
preset minilm, alternately with both workers and with one of them taken; time starts after the
connection to Ray and the imports of its workers. Needs root, and what tests/hosts needs. Keeps raw
JSON in benchmarks/results/nodes.json; the last line is one JSON object: medians `one_node_s` and
`two_nodes_s`, `two_vs_one` (0.5 would be half the time), and whether all datasets were the `same`.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data import read_words, write_people

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(ROOT / "tests" / "hosts"))

from cluster import Cluster  # noqa: E402
from lan import SHARED, Host, switched_on, why_not  # noqa: E402

_CGROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000
# Runs on the head; its arguments are the number of nodes, the file and a cache folder.
JOB = """
import hashlib, json, sys, time
from pathlib import Path
import ray
from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.on_ray.cluster.resources import ray_connection
from mbti_ray.on_ray.cluster_map import map_on_nodes

@ray.remote(num_cpus=1)
class Taken:
    def ready(self): return True

def imported(_):
    import mbti_ray.data.dataset, transformers
    return True

nodes = int(sys.argv[1])
with ray_connection():
    taken = [Taken.remote() for _ in range(2 - nodes)]
    ray.get([each.ready.remote() for each in taken])
    assert all(map_on_nodes(imported, range(2 * nodes), nodes))
    start = time.perf_counter()
    config = load_run("minilm", [f"data.source={sys.argv[2]}"])
    data = prepare_dataset(
        config, Path(sys.argv[3]), map_batches=lambda f, items: map_on_nodes(f, items, nodes)
    )
    seconds = time.perf_counter() - start
    digest = hashlib.sha256()
    for path in sorted(data.folder.rglob("*")):
        digest.update(path.read_bytes() if path.is_file() else b"")
    print("measured " + json.dumps({"seconds": seconds, "digest": digest.hexdigest()}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.csv")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.25, help="of a core, for each worker")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, switched_on(Path(folder)) as switch:
        write_people(switch.shared / "people.csv", read_words(options.files), options.people)
        cluster = Cluster(switch, workers=2)
        cluster.up()
        with ExitStack() as held:
            for host in cluster.workers:
                held.enter_context(held_to(host, options.share))
            for repeat in range(options.repeats):
                for nodes in (2, 1) if repeat % 2 else (1, 2):
                    runs[nodes].append(prepare(cluster, nodes, repeat))
                    print(nodes, "node(s):", round(runs[nodes][-1]["seconds"], 1), flush=True)
    one, two = (statistics.median(run["seconds"] for run in runs[nodes]) for nodes in (1, 2))
    raw = {
        "people": options.people,
        "share": options.share,
        "runs": runs,
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("mbti-ray", "ray", "tokenizers")},
    }
    (RESULTS / "nodes.json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    digests = {run["digest"] for side in runs.values() for run in side}
    figures = {"one_node_s": one, "two_nodes_s": two, "two_vs_one": two / one}
    rounded = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({**rounded, "same": len(digests) == 1}))
    return 0


def prepare(cluster: Cluster, nodes: int, repeat: int) -> dict[str, Any]:
    cache = f"{SHARED}/cache-{nodes}-{repeat}"
    command = ["python", "-c", JOB, str(nodes), f"{SHARED}/people.csv", cache]
    said = cluster.submit(*command, job=f"nodes-{nodes}-{repeat}", timeout_s=1200)
    (line,) = [line for line in said.splitlines() if line.startswith("measured ")]
    return dict(json.loads(line.removeprefix("measured ")))


@contextmanager
def held_to(host: Host, share: float) -> Iterator[None]:
    """Every process of a host, and those that it starts, in a cgroup with a share of a core."""
    group = _CGROUPS / f"nodes-{os.getpid()}-{host.name}"
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)), "ascii")
    for pid in processes_below(host.holder.pid):
        (group / "cgroup.procs").write_text(str(pid), "ascii")
    try:
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text("ascii").split():
            (_CGROUPS / "cgroup.procs").write_text(pid, "ascii")
        group.rmdir()


def processes_below(pid: int) -> list[int]:
    """A process, its children and theirs."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text("ascii").split())
    return found


if __name__ == "__main__":
    raise SystemExit(main())
