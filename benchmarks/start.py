"""Seconds until something is there: an import, a first answer, a first epoch, a ready service.

    python benchmarks/start.py [--base DIR] [--runs 5] [--only NAME ...] [--bundle DIR] [--quick]

Each from the start of a process, alternating with the same of DIR, a checkout of an older version;
medians of the runs count:

    libraries    python -c "import torch, transformers"
    encoder      the same, and the encoder's class, which training needs and a prediction does not
    import       from mbti_ray import MBTIClassifier
    python       the same, then from a bundle to the type of a text
    predict      python -m mbti_ray.predict BUNDLE "text", to its end
    first_epoch  python -m mbti_ray.train quick, to the first line of metrics.jsonl
    train        the same to its end (three epochs)
    ready        python -m mbti_ray.serve BUNDLE, until GET /ready says yes

Keeps raw JSON in benchmarks/results/. The last line is one JSON object: the medians in seconds,
`predict_vs_libraries`, `predict_vs_encoder`, and with --base `vs_base`, of which 0.6 means 60 % of
the time.
"""

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS = Path(__file__).parents[1]
TEXT = "a quiet evening with a book"
_LIMIT_S = 300
_POLL_S = 0.02


class Side:
    """One checkout, with a folder for its runs and its bundle."""

    def __init__(self, name: str, package: Path, folder: Path, bundle: Path | None) -> None:
        self.name, self.package, self.folder = name, package, folder
        # That of its first run.
        self.bundle = bundle or folder / "runs" / "run1" / "bundle"
        folder.mkdir()
        self._trained = 0

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(self.package)}
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def end(self, process: "subprocess.Popen[bytes]", code: int = 0) -> None:
        if process.wait(_LIMIT_S) != code:
            log = (self.folder / "log.txt").read_text(errors="replace")
            raise SystemExit(f"{self.name}: {process.args} ended with {process.returncode}:\n{log}")

    def seconds_of(self, *arguments: str) -> float:
        started = time.perf_counter()
        self.end(self.start(*arguments))
        return time.perf_counter() - started

    def train(self) -> dict[str, float]:
        self._trained += 1
        name = f"run{self._trained}"
        words = ["quick", "fit.epochs=3", f"name={name}", f"storage={self.folder / 'runs'}"]
        metrics = self.folder / "runs" / name / "metrics.jsonl"
        started = time.perf_counter()
        process = self.start("-m", "mbti_ray.train", *words)
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
        first_epoch = time.perf_counter() - started
        self.end(process)
        return {"first_epoch": first_epoch, "train": time.perf_counter() - started}

    def serve(self) -> dict[str, float]:
        port = free_port()
        started = time.perf_counter()
        process = self.start("-m", "mbti_ray.serve", str(self.bundle), f"serve.port={port}")
        try:
            wait_until(lambda: is_ready(port), process)
            return {"ready": time.perf_counter() - started}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(_LIMIT_S)

    def predict(self) -> dict[str, float]:
        code = "from mbti_ray import MBTIClassifier"
        load = f"MBTIClassifier.load_from_checkpoint({str(self.bundle)!r})"
        return {
            "import": self.seconds_of("-c", code),
            "python": self.seconds_of("-c", f"{code}; print({load}.predict({TEXT!r}))"),
            "predict": self.seconds_of("-m", "mbti_ray.predict", str(self.bundle), TEXT),
        }

    def libraries(self) -> dict[str, float]:
        encoder = "import torch; from transformers import AutoTokenizer, DistilBertModel"
        return {
            "libraries": self.seconds_of("-c", "import torch, transformers"),
            "encoder": self.seconds_of("-c", encoder),
        }


# Training comes first: it leaves the bundle that the others read.
MEASURES: dict[str, Callable[[Side], dict[str, float]]] = {
    "train": Side.train,
    "serve": Side.serve,
    "predict": Side.predict,
    "libraries": Side.libraries,
}


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise SystemExit(f"{process.args} did not come so far; see log.txt in its folder")
        time.sleep(_POLL_S)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def summary(seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians of our side, and what they are of those of the other."""
    medians = {
        side: {name: statistics.median(values) for name, values in found.items()}
        for side, found in seconds.items()
    }
    ours = medians["ours"]
    result: dict[str, Any] = {"seconds": ours}
    for beside in ("libraries", "encoder"):
        if beside in ours and "predict" in ours:
            result[f"predict_vs_{beside}"] = ours["predict"] / ours[beside]
    if "base" in medians:
        result["base_seconds"] = medians["base"]
        result["vs_base"] = {name: ours[name] / medians["base"][name] for name in ours}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", type=Path, help="checkout of an older version")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--bundle", type=Path, help="for both sides, instead of one of their own")
    parser.add_argument("--quick", action="store_true", help="two runs")
    options = parser.parse_args()
    if options.quick:
        options.runs = 2
    load = os.getloadavg()[0]
    packages = {"ours": OURS} | ({"base": options.base.resolve()} if options.base else {})
    bundle = options.bundle and options.bundle.resolve()
    first = [n for n in MEASURES if n in options.only or (n == "train" and not bundle)]
    with tempfile.TemporaryDirectory() as place:
        sides = [
            Side(name, package, Path(place) / name, bundle) for name, package in packages.items()
        ]
        seconds: dict[str, dict[str, list[float]]] = {side.name: {} for side in sides}
        for run in range(options.runs):
            for name in first if run == 0 else options.only:
                for side in sides:
                    for what, value in MEASURES[name](side).items():
                        if name in options.only:
                            seconds[side.name].setdefault(what, []).append(value)
            print(f"run {run + 1}: {rounded(seconds)}", flush=True)
    result = summary(seconds)
    record = {
        "command": f"python benchmarks/start.py --runs {options.runs}"
        + (" --base DIR" if options.base else ""),
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "ray")},
        },
        "load_before": load,
        "medians": result,
        "runs": seconds,
    }
    output = RESULTS / ("start_quick.json" if options.quick else "start.json")
    output.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


def rounded(seconds: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {side: {n: round(v[-1], 1) for n, v in found.items()} for side, found in seconds.items()}


if __name__ == "__main__":
    main()
