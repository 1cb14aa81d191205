"""What breaks a cluster in silence, made to happen: the doctor names each before a run meets it.

One cluster of three workers, of which `ray up` gets only one: the second shows another token, the
third has another version of Ray. `ray up` says that all is well.
"""

import json
import re

import pytest
import ray
from cluster import RUNS, SHARED, Cluster, wait_until
from lan import Switch

pytestmark = [pytest.mark.hosts, pytest.mark.long]

OTHER_RAY = "2.59.0"
TRAIN = ["python", "-m", "mbti_ray.train", "quick"]


@pytest.fixture(scope="module")
def broken(switch: Switch) -> Cluster:
    """The cluster, as far as it comes up."""
    made = Cluster(switch, workers=3)
    version = f"{ray.__path__[0]}/_version.py"
    shown = f'commit = "0"\nversion = "{OTHER_RAY}"\nif __name__ == "__main__": print(version)\n'
    (switch.shared / "version.py").write_text(shown, "utf-8")
    spoil = {
        "worker-2": f"echo {'0' * 64} > ~/.ray/auth_token",
        "worker-3": f"mount --bind {SHARED}/version.py {version}",
    }
    start = made.tree()["worker_start_ray_commands"]
    start[:0] = [f'[ "$(hostname)" != {name} ] || {do}' for name, do in spoil.items()]
    said = made.up(joining=1, worker_start_ray_commands=start)
    assert "error" not in said.lower()
    return made


def not_started(cluster: Cluster) -> set[str]:
    """The workers of which the autoscaler saw that Ray does not start there."""
    log = "/tmp/ray/session_latest/logs/monitor.out"
    said = cluster.head.run("grep", "Ray start commands failed", log, check=False).stdout
    return {host.address for host in cluster.workers if f" {host.address}: " in said}


def doctor(cluster: Cluster, job: str, *settings: str) -> dict[str, list[str]]:
    """What it says that is wrong: the lines by the name of the check."""
    command = ["python", "-m", "mbti_ray.doctor", "--cluster", "--json", "quick", *settings]
    said = cluster.submit(*command, job=job, state="FAILED")
    (line,) = [text for text in said.splitlines() if text.startswith("{")]
    report = json.loads(line)
    assert report["seconds"] < 30
    wrong: dict[str, list[str]] = {}
    for check in report["checks"]:
        if check["state"] == "wrong":
            wrong.setdefault(check["check"], []).append(json.dumps(check))
    return wrong


def test_a_worker_with_another_token_and_one_with_another_ray_are_named_with_the_reason(
    broken: Cluster,
) -> None:
    reasons = {
        broken.workers[1].address: "its token is missing or differs from the head's",
        broken.workers[2].address: "its version of Ray or Python differs from the head's",
    }
    # One that is refused tries for half a minute.
    wait_until(lambda: reasons.keys() <= not_started(broken), 120, lambda: broken.log("monitor.*"))
    wrong = doctor(broken, "refused", f"storage={RUNS}")
    assert wrong.keys() == {"nodes"}
    said = "\n".join(wrong["nodes"])
    for address, reason in reasons.items():
        assert f"{address} could not join: {reason}" in said
    assert said.count("run `ray up` again") == len(reasons)


def test_storage_that_only_the_head_sees_is_named_and_a_run_there_is_refused_at_once(
    broken: Cluster,
) -> None:
    wrong = doctor(broken, "alone", "storage=/tmp/runs")
    (line,) = wrong["storage"]
    assert f"/tmp/runs does not exist on {broken.workers[0].address}" in line
    said = broken.submit(*TRAIN, "storage=/tmp/runs", "name=alone", job="run-alone", state="FAILED")
    assert re.search(r"storage: /tmp/runs does not exist on .*set storage=s3://", said)
    # Nothing was begun on the head.
    assert broken.head.run("ls", "/tmp/runs/alone", check=False).returncode


def test_a_worker_that_is_cut_from_the_network_is_named_before_a_run_waits_for_it(
    broken: Cluster,
) -> None:
    cut = broken.workers[0]
    cut.cut()
    try:
        wrong = doctor(broken, "cut", f"storage={RUNS}")
    finally:
        cut.join()
    assert any(cut.address in line and "no answer within" in line for line in wrong["nodes"])
