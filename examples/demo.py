"""The whole path in one go: search, serve the best, ask it one question, stop everything.

Runs the commands that a person would type, and prints the service's answer as its last line.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "tune_configs" / "quick.yaml"
# The built-in corpus is synthetic and small: a model trained on it knows the words of that corpus.
QUESTION = (
    "Nothing beats silence and books. I think about theories and patterns, trust logic and "
    "evidence, and keep lists of my plans and deadlines."
)
_READY_S = 120


def main() -> int:
    storage = ROOT / "runs"
    search = _command("tune", str(STUDY), f"storage={storage}", "name=demo", "--fresh")
    subprocess.run(search, check=True)
    bundle = storage / "demo" / "best" / "bundle"
    port = _free_port()
    service = subprocess.Popen(_command("serve", str(bundle), f"serve.port={port}"))
    try:
        answer = _ask(f"http://127.0.0.1:{port}", service)
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)
    print(json.dumps(answer))
    return 0


def _command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mbti_ray.{verb}", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask(url: str, service: subprocess.Popen[bytes]) -> object:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"the service ended with {service.returncode}")
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    print(f"asking {url}/predict: {QUESTION}", flush=True)
    response = httpx.post(f"{url}/predict", json={"inputs": QUESTION}, timeout=30)
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
