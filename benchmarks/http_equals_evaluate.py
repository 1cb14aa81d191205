"""Does the service answer what `evaluate` computes? Held-out rows, asked over HTTP, side by side.

    python benchmarks/http_equals_evaluate.py BUNDLE [--source FILE] [--rows 100]

Starts the service as its own process, asks for the raw texts of test rows from several clients at
once (so that they share batches with others), and compares all four probabilities. The last line
is one JSON object: rows, largest_gap, acc_mean and acc_total of the whole test split.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from mbti_ray.data.processes import no_progress
from mbti_ray.data.sources import read_source
from mbti_ray.inference.evaluation import evaluate_bundle, load_evaluation_data
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.typology import POSITIVE_POLES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--source", help="the data file; default: the one it was trained on")
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    bundle = fetch_bundle(options.bundle)
    overrides = [f"data.source={options.source}"] if options.source else []
    data = load_evaluation_data(bundle, overrides, split="test")
    evaluation = evaluate_bundle(bundle, data, no_progress)
    rows = evaluation.rows.slice(0, options.rows).to_pylist()
    posts = {row.number: row.posts for row in read_source(data.config.data.source).rows}

    def body(row: dict[str, int]) -> dict[str, object]:
        texts = posts[row["number"]]
        return {"posts": list(texts)} if row["post"] < 0 else {"inputs": texts[row["post"]]}

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mbti_ray.serve", str(bundle), f"serve.port={port}"]
    service = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, service)
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as clients:
            answers = list(
                clients.map(lambda r: client.post(f"{url}/predict", json=body(r)).json(), rows)
            )
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)
    gap = max(
        abs(row[pole] - answer["probabilities"][pole])
        for row, answer in zip(rows, answers, strict=True)
        for pole in POSITIVE_POLES
    )
    result = {
        "rows": len(rows),
        "largest_gap": gap,
        "acc_mean": evaluation.scores["acc_mean"],
        "acc_total": evaluation.scores["acc_total"],
    }
    print(json.dumps(result))
    return 0


def _wait(url: str, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and service.poll() is None:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the service did not become ready")


if __name__ == "__main__":
    raise SystemExit(main())
