"""The service beside what a user would put in its place: requests a second, latency, files.

    python benchmarks/serve.py [--source FILE.csv] [--quick]

One model (the encoder of the preset minilm with fresh heads: the speed is that of a trained one),
the same texts for all, two cores for everything, the client included; each side is started, asked
and ended in turn, and medians of the repeats count:

    torch, onnx, onnx-int8   `python -m mbti_ray.serve` with serve.runtime, one replica of all cores
    fastapi                  FastAPI around a transformers pipeline (peers/fastapi_pipeline.py)
    litserve                 LitServe with batches of 32 (peers/litserve_api.py)

A closed loop of 1, 16 and 64 clients, each of which asks for one text after the other, and an open
loop at a fixed rate. `raw` is `Predictor.predict` over all texts at once, sorted by length; the
overhead at one client is its median latency less that of a forward pass on the same windows. Files:
`mbti_ray.predict --input`, from when it begins with the first rows to the last, beside raw and a
transformers pipeline with batch_size=32. Needs `pip install 'mbti_ray[bench,onnx,minilm]'`.

The last line is one JSON object: vs_best_peer_at_64 and share_of_raw (of the faster runtime in
float32), overhead_ms_at_1, files_vs_raw, files_vs_pipeline.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import torch
from clients import Figures, closed_loop, open_loop
from extra import require_bench
from transformers import AutoModelForSequenceClassification, pipeline

from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.encoder_files import locate_encoder
from mbti_ray.data.sources import read_source
from mbti_ray.inference.bundle import load_bundle, load_model
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes.onnx_export import export_onnx
from mbti_ray.model.classifier import build_model

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
CORES = os.cpu_count() or 1
OURS = ("torch", "onnx", "onnx-int8")
PEERS = ("fastapi", "litserve")
CLIENTS = (1, 16, 64)
FLOAT32 = ("torch", "onnx")


def build_bundle(source: str, folder: Path, *, seed: int = 0) -> Path:
    """A bundle of the preset minilm with fresh heads, with its exports; in `folder`/bundle."""
    config = load_run("minilm", [f"data.source={source}", "data.unit=post", "data.split_by=post"])
    data = prepare_dataset(config, folder / "cache")
    bundle = folder / "bundle"
    write_bundle(
        bundle,
        config=config,
        model=build_model(config.model, vocabulary=len(data.tokenizer), seed=seed),
        data=data,
        scores={},
    )
    export_onnx(bundle)
    return bundle


def build_peer(bundle: Path, folder: Path) -> Path:
    """The encoder and heads of a bundle as a folder of transformers."""
    found = load_bundle(bundle)
    config = found.manifest.model
    model = AutoModelForSequenceClassification.from_pretrained(
        locate_encoder(config.encoder),
        num_labels=4,
        problem_type="multi_label_classification",
    )
    model.classifier.load_state_dict(load_model(found).heads.state_dict())
    model.save_pretrained(folder)
    found.tokenizer.model_max_length = config.max_tokens
    found.tokenizer.save_pretrained(folder)
    return folder


def read_texts(source: str) -> list[str]:
    texts = [post for row in read_source(source, labelled=False).rows for post in row.posts]
    random.Random(0).shuffle(texts)
    return texts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Side:
    """One service as a process."""

    def __init__(self, name: str, bundle: Path, peer: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        if name in OURS:
            command = ["-m", "mbti_ray.serve", str(bundle), f"serve.port={port}"]
            command += [f"serve.runtime={name}", f"serve.cpus={CORES}", "serve.max_wait_s=60"]
        else:
            script = {"fastapi": "fastapi_pipeline.py", "litserve": "litserve_api.py"}[name]
            command = [str(ROOT / "peers" / script), str(peer), str(port), str(CORES)]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        self._log = log.open("a")
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            cwd=log.parent,
        )

    def wait_ready(self, text: str) -> None:
        end = time.monotonic() + 180
        with httpx.Client(trust_env=False, timeout=30) as client:
            while time.monotonic() < end:
                if self._process.poll() is not None:
                    raise RuntimeError(f"the service ended; see {self._log.name}")
                try:
                    if client.post(f"{self.url}/predict", json={"inputs": text}).is_success:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
        raise RuntimeError("the service did not become ready")

    def end(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if Path(self._log.name).exists():
            self._log.close()


def measure_side(side: Side, texts: list[str], seconds: float, rate: float) -> Figures:
    side.wait_ready(texts[0])
    asyncio.run(closed_loop(side.url, texts, 16, 2.0))  # warm
    found = {str(n): asyncio.run(closed_loop(side.url, texts, n, seconds)) for n in CLIENTS}
    return found | {"open": asyncio.run(open_loop(side.url, texts, rate, seconds))}


def measure_raw(bundle: Path, texts: list[str]) -> dict[str, Figures]:
    """Texts a second of everything sorted, and the median pass of one text, by runtime."""
    torch.set_num_threads(CORES)
    found = {}
    for kind in OURS:
        predictor = Predictor.load(bundle, runtime=kind, threads=CORES)  # type: ignore[arg-type]
        users = [[text] for text in texts]
        predictor.predict(users[:64], whole=False)
        start = time.perf_counter()
        predictor.predict(users, whole=False)
        texts_s = len(texts) / (time.perf_counter() - start)
        passes = []
        for packed in predictor.encode(users[:64], whole=False):
            start = time.perf_counter()
            predictor.forward(packed.windows)
            passes.append(time.perf_counter() - start)
        found[kind] = {"texts_s": texts_s, "pass_ms": 1000 * statistics.median(passes)}
    return found


def measure_files(bundle: Path, peer: Path, texts: list[str], folder: Path) -> Figures:
    """Rows a second: our files from the first rows to the last, raw, a pipeline with batches."""
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    command = [sys.executable, "-m", "mbti_ray.predict", str(bundle), "--json"]
    command += ["--input", str(file), "--output", str(folder / "out.parquet")]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    whole_s = time.perf_counter() - start
    ours = json.loads(done.stdout.strip().splitlines()[-1])
    torch.set_num_threads(CORES)
    predictor = Predictor.load(bundle)
    start = time.perf_counter()
    predictor.predict([[text] for text in texts], whole=False)
    raw = len(texts) / (time.perf_counter() - start)
    few = texts[: len(texts) // 4]
    read = pipeline("text-classification", model=str(peer), tokenizer=str(peer), device="cpu")
    start = time.perf_counter()
    read(few, batch_size=32, truncation=True, function_to_apply="sigmoid", top_k=None)
    return {
        "ours_rows_s": ours["rows_s"],
        "ours_whole_command_s": whole_s,
        "raw_rows_s": raw,
        "pipeline_rows_s": len(few) / (time.perf_counter() - start),
        "rows": len(texts),
    }


def median_of(runs: list[Figures]) -> Figures:
    first = runs[0]
    return {
        key: median_of([r[key] for r in runs])
        if isinstance(first[key], dict)
        else statistics.median(r[key] for r in runs)
        for key in first
    }


def summary(sides: dict[str, Figures], raw: dict[str, Figures], files: Figures) -> Figures:
    at_64 = {name: found["64"]["requests_s"] for name, found in sides.items()}
    ours = max((n for n in FLOAT32 if n in at_64), key=lambda n: at_64[n])
    peers = [at_64[n] for n in PEERS if n in at_64]
    return {
        "vs_best_peer_at_64": at_64[ours] / max(peers) if peers else None,
        "share_of_raw": at_64[ours] / raw[ours]["texts_s"],
        "overhead_ms_at_1": sides[ours]["1"]["p50_ms"] - raw[ours]["pass_ms"],
        "files_vs_raw": files["ours_rows_s"] / files["raw_rows_s"],
        "files_vs_pipeline": files["ours_rows_s"] / files["pipeline_rows_s"],
        "runtime": ours,
        "requests_s": {
            n: {c: f[c]["requests_s"] for c in map(str, CLIENTS)} for n, f in sides.items()
        },
        "p99_ms_at_64": {n: f["64"]["p99_ms"] for n, f in sides.items()},
        "errors": {n: sum(f[c]["errors"] for c in f) for n, f in sides.items()},
        "raw_texts_s": {n: f["texts_s"] for n, f in raw.items()},
    }


def machine() -> Figures:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    packages = ("torch", "transformers", "ray", "onnxruntime", "litserve", "fastapi")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": CORES,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, help="default: the built-in corpus")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20, help="requests a second, open loop")
    parser.add_argument("--sides", nargs="+", choices=OURS + PEERS, default=list(OURS + PEERS))
    parser.add_argument("--quick", action="store_true", help="5 s a level, one repeat")
    parser.add_argument("--output", type=Path, help="default: serve.json, or serve_quick.json")
    options = parser.parse_args()
    if "litserve" in options.sides:
        require_bench("litserve")
    if options.quick:
        options.seconds, options.repeats = 5.0, 1
    output = options.output or RESULTS / ("serve_quick.json" if options.quick else "serve.json")
    load = os.getloadavg()[0]
    source = str(options.source.resolve()) if options.source else "builtin"
    texts = read_texts(source)[: options.texts]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = build_bundle(source, folder)
        peer = build_peer(bundle, folder / "peer")
        raws, rounds = [], []
        for _ in range(options.repeats):
            raws.append(measure_raw(bundle, texts[:384]))
            found = {}
            for name in options.sides:
                side = Side(name, bundle, peer, folder / "log.txt")
                try:
                    found[name] = measure_side(side, texts, options.seconds, options.rate)
                finally:
                    side.end()
                print(
                    name, json.dumps({k: round(v["requests_s"], 1) for k, v in found[name].items()})
                )
            rounds.append(found)
        files = measure_files(bundle, peer, texts, folder)
    sides, raw = median_of(rounds), median_of(raws)
    result = summary(sides, raw, files)
    record = {
        "command": f"python benchmarks/serve.py --source {options.source and options.source.name}"
        f" --seconds {options.seconds:g} --repeats {options.repeats}",
        "machine": machine(),
        "load_before": load,
        "texts": len(texts),
        "medians": result,
        "sides": sides,
        "raw": raw,
        "files": files,
        "rounds": rounds,
    }
    output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
