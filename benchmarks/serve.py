"""The service beside what a user would put in its place: requests a second, latency, CPU time.

    python benchmarks/serve.py [--source FILE.csv] [--quick] [--parts P ...] [--sides S ...]

One model (the encoder of the preset minilm with fresh heads: the speed is that of a trained one),
the same texts for all, all cores for everything, the load generator included: wrk where it is
installed (Debian's package), else clients in Python. Each side is started, asked by one client and
by 64, and ended; the order turns around from repeat to repeat, and medians of the repeats count.

    services  torch, onnx, onnx-int8: `python -m mbti_ray.serve` with that serve.runtime
              litserve-torch and so on: LitServe with batches of 32 (peers/litserve_peer.py)
              fastapi: FastAPI around a transformers pipeline (peers/fastapi_peer.py)
              raw: `Predictor.predict` over all texts at once, sorted by length; passes of one text
    files     `mbti_ray.predict --input` from the first rows to the last, beside raw and a
              transformers pipeline with batch_size=32
    posts     {"posts": [...]} to a bundle of reader=posts and to one of reader=windows
    company   by how much a text's logits move with the texts beside it, over 100 companies

Parts and sides that are not run keep their figures in the output, so that a part fits a short slot.
With --base DIR, a checkout, our sides also run from there. `cpu_ms_beside_forward` is the CPU time
a request of all processes of the service at 64 clients, but for the threads of the forward pass.
Needs `pip install 'mbti_ray[bench]'`. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import clients
import torch
from clients import Figures, closed_loop
from extra import require_bench
from service_sides import CORES, OURS, PEERS, ROOT, Side, build_bundle, build_peer
from transformers import pipeline

from mbti_ray.data.rows import Row
from mbti_ray.data.sources import stream_rows
from mbti_ray.inference.predictor import Predictor

RESULTS = ROOT / "results"
PARTS = ("services", "files", "posts", "company")
COMPANIES = 100
POSTS_CLIENTS = 8


def measure_services(options: argparse.Namespace, folder: Path, record: Figures) -> None:
    bundle = build_bundle(options.source, folder / "bundle", "data.unit=post", "data.split_by=post")
    build_peer(bundle, folder / "peer")
    texts = read_texts(options.source)[: options.texts]
    bodies = write_bodies(folder / "texts.jsonl", [{"inputs": text} for text in texts])
    checkouts = {"": ROOT.parent} | ({"@base": options.base.resolve()} if options.base else {})
    sides = [n + at for n in options.sides for at in (checkouts if n in OURS else [""])]
    rounds: dict[str, list[Figures]] = {name: [] for name in sides}
    raws: dict[str, list[Figures]] = {kind: [] for kind in OURS if kind in options.sides}
    for repeat in range(options.repeats):
        for kind, found in raws.items():
            found.append(measure_raw(bundle, kind, texts[:384]))
        for name in sides if repeat % 2 == 0 else reversed(sides):
            kind, at, _ = name.partition("@")
            package = checkouts[at + _]
            log = folder / "log.txt"
            side = Side(kind, bundle, log, package=package, options=options.serve)
            try:
                rounds[name].append(measure_side(side, bodies, options.seconds))
            finally:
                side.end()
            print(name, json.dumps(rounds[name][-1]), flush=True)
    record.setdefault("sides", {}).update({n: median_of(runs) for n, runs in rounds.items()})
    record.setdefault("raw", {}).update({n: median_of(runs) for n, runs in raws.items()})
    record.setdefault("rounds", {}).update(rounds)


def measure_side(side: Side, bodies: Path, seconds: float) -> Figures:
    with bodies.open() as lines:
        side.wait_ready(next(lines))
    at_1 = closed_loop(side.url, bodies, 1, seconds)
    closed_loop(side.url, bodies, 64, min(seconds, 3))  # warm
    time.sleep(1)  # Some peers still compute what was asked.
    before = side.cpu_s()
    at_64 = closed_loop(side.url, bodies, 64, seconds)
    spent = side.cpu_s()
    spent.subtract(before)
    cpu_ms = {part: 1000 * s / max(1, at_64["answers"]) for part, s in spent.items()}
    return {"64": {**at_64, "cpu_ms": cpu_ms}, "1": at_1}


def measure_raw(bundle: Path, kind: str, texts: list[str]) -> Figures:
    """Texts a second of everything sorted, and the median pass of one text."""
    torch.set_num_threads(CORES)
    predictor = Predictor.load(bundle, runtime=kind)  # type: ignore[arg-type]
    users = [[text] for text in texts]
    predictor.predict(users[:64], whole=False)
    goes = []
    for _ in range(3):
        began = time.perf_counter()
        predictor.predict(users, whole=False)
        goes.append(time.perf_counter() - began)
    passes = []
    for packed in predictor.encode(users[:64], whole=False):
        began = time.perf_counter()
        predictor.forward(packed.windows)
        passes.append(time.perf_counter() - began)
    return {
        "texts_s": len(texts) / statistics.median(goes),
        "pass_ms": 1000 * statistics.median(passes),
    }


def measure_files(options: argparse.Namespace, folder: Path, record: Figures) -> None:
    """Rows a second: our files from the first rows to the last, raw, a pipeline with batches."""
    bundle = build_bundle(options.source, folder / "bundle", "data.unit=post", "data.split_by=post")
    peer = build_peer(bundle, folder / "peer")
    texts = read_texts(options.source)[: options.texts]
    file = write_bodies(folder / "rows.jsonl", [{"text": text} for text in texts])
    command = [sys.executable, "-m", "mbti_ray.predict", str(bundle), "--json"]
    command += ["--input", str(file), "--output", str(folder / "out.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    start = time.perf_counter()
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, env=environment
    )
    whole_s = time.perf_counter() - start
    ours = json.loads(done.stdout.strip().splitlines()[-1])
    raw = measure_raw(bundle, "torch", texts)
    few = texts[: len(texts) // 4]
    read = pipeline("text-classification", model=str(peer), tokenizer=str(peer), device="cpu")
    start = time.perf_counter()
    read(few, batch_size=32, truncation=True, function_to_apply="sigmoid", top_k=None)
    record["files"] = {
        "ours_rows_s": ours["rows_s"],
        "ours_whole_command_s": whole_s,
        "raw_rows_s": raw["texts_s"],
        "pipeline_rows_s": len(few) / (time.perf_counter() - start),
        "rows": len(texts),
    }


def measure_posts(options: argparse.Namespace, folder: Path, record: Figures) -> None:
    """Both readers read the same 8 posts of a person, in windows of 256 tokens or one by one."""
    texts = read_texts(options.source)
    people = [texts[start : start + 8] for start in range(0, 8 * 128, 8)]
    bodies = write_bodies(folder / "people.jsonl", [{"posts": posts} for posts in people])
    found: dict[str, list[Figures]] = {"windows": [], "posts": []}
    for repeat in range(options.repeats):
        for reader in found if repeat % 2 == 0 else reversed(found):
            words = f"model.reader={reader}"
            bundle = build_bundle(options.source, folder / reader, words, is_exported=False)
            log = folder / "log.txt"
            side = Side("torch", bundle, log, options=options.serve)
            try:
                side.wait_ready(json.dumps({"posts": people[0]}))
                closed_loop(side.url, bodies, POSTS_CLIENTS, 2)
                found[reader].append(closed_loop(side.url, bodies, POSTS_CLIENTS, options.seconds))
            finally:
                side.end()
    record["posts"] = {reader: median_of(runs) for reader, runs in found.items()}


def measure_company(options: argparse.Namespace, folder: Path, record: Figures) -> None:
    bundle = build_bundle(options.source, folder / "bundle", "data.unit=post", "data.split_by=post")
    texts = read_texts(options.source)[:1000]
    chance = random.Random(0)
    record["company"] = {}
    for kind in OURS:
        predictor = Predictor.load(bundle, runtime=kind)  # type: ignore[arg-type]
        rows = predictor.encode([[text] for text in texts], whole=False)
        windows = [row.windows[0] for row in rows]
        alone = predictor.forward(windows[:1])[0]
        beside = [
            predictor.forward([windows[0], *chance.sample(windows[1:], chance.randint(1, 31))])[0]
            for _ in range(COMPANIES)
        ]
        gap = max(float((outputs - alone).abs().max()) for outputs in beside)
        record["company"][kind] = gap


def read_texts(source: str) -> list[str]:
    rows = (row for _, row in stream_rows(source, labeled=False) if isinstance(row, Row))
    texts = [post for row in rows for post in row.posts]
    random.Random(0).shuffle(texts)
    return texts


def write_bodies(file: Path, bodies: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies), "utf-8")
    return file


def median_of(runs: list[Figures]) -> Figures:
    first = runs[0]
    return {
        key: median_of([r[key] for r in runs])
        if isinstance(first[key], dict)
        else statistics.median(r[key] for r in runs)
        for key in first
    }


def summary(record: Figures) -> Figures:
    sides, raw = record.get("sides", {}), record.get("raw", {})
    at_64 = {name: found["64"]["requests_s"] for name, found in sides.items()}
    ours = [name for name in OURS if name in at_64]
    files, posts = record.get("files"), record.get("posts")

    def ratio(other: str) -> Figures:
        return {n: at_64[n] / at_64[o] for n in ours if (o := other.format(n)) in at_64}

    return {
        "vs_litserve_at_64": ratio("litserve-{}"),
        "vs_fastapi_at_64": ratio("fastapi"),
        "vs_base_at_64": ratio("{}@base"),
        "share_of_raw": {n: at_64[n] / raw[n]["texts_s"] for n in ours},
        "cpu_ms_beside_forward": {
            n: sum(ms for part, ms in sides[n]["64"]["cpu_ms"].items() if part != "forward")
            for n in ours
        },
        "overhead_ms_at_1": {n: sides[n]["1"]["p50_ms"] - raw[n]["pass_ms"] for n in ours},
        "files_vs_raw": files and files["ours_rows_s"] / files["raw_rows_s"],
        "files_vs_pipeline": files and files["ours_rows_s"] / files["pipeline_rows_s"],
        "posts_vs_windows": posts and posts["windows"]["requests_s"] / posts["posts"]["requests_s"],
        "company_gap": record.get("company"),
        "requests_s": {n: {c: f[c]["requests_s"] for c in ("1", "64")} for n, f in sides.items()},
        "p99_ms_at_64": {n: f["64"]["p99_ms"] for n, f in sides.items()},
        "errors": {n: sum(f[c]["errors"] for c in f) for n, f in sides.items()},
        "raw_texts_s": {n: f["texts_s"] for n, f in raw.items()},
    }


def machine() -> Figures:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    packages = ("torch", "transformers", "ray", "onnxruntime", "litserve", "fastapi")
    return {
        "cpu": next((n.partition(": ")[2] for n in lines if n.startswith("model name")), ""),
        "cores": CORES,
        "python": platform.python_version(),
        "load_generator": clients.NAME,
        **{name: version(name) for name in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", default="builtin", help="default: the built-in corpus")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sides", nargs="+", choices=OURS + PEERS, default=OURS + PEERS)
    parser.add_argument("--serve", nargs="*", default=[f"serve.cpus={CORES}"], metavar="KEY=VALUE")
    parser.add_argument("--base", type=Path, help="a checkout: our sides run from there as well")
    parser.add_argument("--work", type=Path, help="a folder that keeps the bundles for a next run")
    parser.add_argument("--quick", action="store_true", help="3 s a level, one repeat")
    parser.add_argument("--output", type=Path, help="default: serve.json, or serve_quick.json")
    options = parser.parse_args()
    # So that a time-out also ends the service that is being measured.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    require_bench("litserve", "onnxruntime", "onnxscript")
    if options.source != "builtin":
        options.source = str(Path(options.source).resolve())
    if options.quick:
        options.seconds, options.repeats = 3, 1
    output = options.output or RESULTS / ("serve_quick.json" if options.quick else "serve.json")
    record = json.loads(output.read_text("utf-8")) if output.exists() else {}
    if record.get("machine") != machine():
        record = {"machine": machine(), "commands": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        folder = options.work.resolve() if options.work else Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        for part in options.parts:
            globals()[f"measure_{part}"](options, folder, record)
    words = [Path(w).name if "/" in w else w for w in sys.argv[1:]]
    record["commands"].append({"arguments": " ".join(words), "load_before": load})
    record = {"medians": summary(record), **{k: v for k, v in record.items() if k != "medians"}}
    output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(record["medians"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
