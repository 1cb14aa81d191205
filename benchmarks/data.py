"""Preparing data: seconds, memory, and how both grow with the file.

    python benchmarks/data.py [FILE.csv ...] [--people 8675] [--times 10] [--quick]

Writes a file of the public MBTI set's size (8,675 people with 50 posts each, 75 MB) from the words
of the FILEs, or of the built-in corpus: posts of up to 200 characters in runs of their words, with
a link in 8 % and a type in 10 % of them. Prepares it with the preset minilm in a process of its
own, again to find it unchanged, audits it, and prepares a file of --times as many people. Beside
it, `datasets.map` with two processes tokenizes the same posts, without masks, splits or windows.
Time starts after the imports. Memory is the proportional set size (PSS) of the process and its
children, added up ten times a second, its largest value. --quick is a twentieth of the people, and
three times that. The last line is one JSON object: seconds, peak_mib, again_s, vs_datasets_map
(their seconds over ours), mib_at_10x, seconds_at_10x, audit_s.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
POSTS = 50
LINKS, NAMINGS, FULL_POSTS = 0.08, 0.1, 0.7
# Each runs in a process of its own: what a child imports is its memory.
PREPARE = """
import json, sys, time
from pathlib import Path
from transformers import AutoTokenizer
from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
start = time.perf_counter()
config = load_run("minilm", [f"data.source={sys.argv[1]}"])
data = prepare_dataset(config, Path(sys.argv[2]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "rows": data.info.rows, "key": data.key}))
"""
AUDIT = """
import json, sys, time
from transformers import AutoTokenizer
from mbti_ray.audit import main
start = time.perf_counter()
code = main(["minilm", f"data.source={sys.argv[1]}"])
print(json.dumps({"seconds": time.perf_counter() - start}))
sys.exit(code)
"""
DATASETS_MAP = """
import csv, json, sys, time
from datasets import Dataset
from mbti_ray.data.tokenizer import build_tokenizer
csv.field_size_limit(2**31 - 1)
with open(sys.argv[1], encoding="utf-8", newline="") as file:
    posts = [post for row in csv.DictReader(file) for post in row["posts"].split("|||")]
tokenizer = build_tokenizer("minilm", ())
dataset = Dataset.from_dict({"text": posts})
start = time.perf_counter()
encoded = dataset.map(lambda rows: tokenizer(rows["text"]), batched=True, num_proc=2)
print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(encoded)}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.csv")
    parser.add_argument("--people", type=int, default=8675)
    parser.add_argument("--times", type=int, default=10, help="size of the larger file; 0: none")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    people, times = options.people, options.times
    if options.quick:
        people, times = people // 20, 3
    with tempfile.TemporaryDirectory(prefix="benchmark-data-") as folder:
        measured = measure(Path(folder), options.files, people, times)
    raw = {
        "people": people,
        "posts": people * POSTS,
        "times": times,
        **measured,
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            name: version(name) for name in ("mbti-ray", "datasets", "tokenizers", "pyarrow")
        },
    }
    path = RESULTS / ("data_quick.json" if options.quick else "data.json")
    path.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    first = measured["first"]
    larger = measured.get("larger", {})
    summary = {
        "seconds": first["seconds"],
        "peak_mib": first["peak_mib"],
        "again_s": measured["again"]["seconds"],
        "vs_datasets_map": measured["datasets_map"]["seconds"] / first["seconds"],
        "mib_at_10x": larger.get("peak_mib"),
        "seconds_at_10x": larger.get("seconds"),
        "audit_s": measured["audit"]["seconds"],
    }
    print(json.dumps({k: v if v is None else round(v, 2) for k, v in summary.items()}))
    return 0


def measure(folder: Path, files: Sequence[Path], people: int, times: int) -> dict[str, Any]:
    words = read_words(files)
    path, cache = folder / "people.csv", folder / "cache"
    write_people(path, words, people)
    megabytes = path.stat().st_size / 1e6
    found: dict[str, Any] = {
        "megabytes": megabytes,
        "first": run("first", PREPARE, path, cache),
        "again": run("again", PREPARE, path, cache),
        "audit": run("audit", AUDIT, path),
        "datasets_map": run("datasets.map", DATASETS_MAP, path),
    }
    if times:
        write_people(path, words, people * times)
        found["larger"] = run(f"{times} times", PREPARE, path, cache)
    return found


def run(name: str, code: str, *arguments: Path) -> dict[str, Any]:
    """What the code printed last, with the peak memory of its process and their children."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(lines[-1]) | {"peak_mib": peak / 2**20}
    print(f"{name}: {found['seconds']:.1f} s, {found['peak_mib']:.0f} MiB", flush=True)
    return found


def memory_of(pid: int) -> int:
    """Bytes of a process and its children; what they share counts once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # one has just ended
        pass
    return total


def read_words(files: Sequence[Path]) -> list[str]:
    """The words of all posts, in order."""
    if not files:
        from mbti_ray.data.builtin_corpus import builtin_rows

        return [w for row in builtin_rows() for post in row.posts for w in post.split()]
    csv.field_size_limit(2**31 - 1)
    words = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                words += row["posts"].replace("|||", " ").split()
    return words


def write_people(path: Path, words: Sequence[str], people: int) -> None:
    from mbti_ray.data.builtin_corpus import TYPE_COUNTS

    random = Random(people)
    types = random.choices([*TYPE_COUNTS], [*TYPE_COUNTS.values()], k=people)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["type", "posts"])
        for own in types:
            posts = [write_post(random, words, own) for _ in range(POSTS)]
            writer.writerow([own, "|||".join(posts)])


def write_post(random: Random, words: Sequence[str], own: str) -> str:
    limit = 200 if random.random() < FULL_POSTS else random.randint(4, 200)
    start = random.randrange(len(words) - 60)
    # At the last space before the limit, as the public set's posts end.
    post = " ".join(words[start : start + 60])[: limit + 1].rsplit(" ", 1)[0]
    if random.random() < LINKS:
        post += f" https://youtu.be/{random.randrange(16**9):x}"
    if random.random() < NAMINGS:
        post += f" as an {own}"
    return post


if __name__ == "__main__":
    raise SystemExit(main())
