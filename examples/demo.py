"""End-to-end demo: run a small study, serve its best model, send one request, shut down.

Runs the commands that a user would type, and prints the service's response as the last line.
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
STUDY = "tune_configs/quick.yaml"
# The built-in corpus is small and synthetic: a model trained on it knows the words of that corpus.
TEXT = (
    "Nothing beats silence and books. I think about theories and patterns, trust logic and "
    "evidence, and keep lists of my plans and deadlines."
)
_READY_S = 120


def main() -> int:
    subprocess.run(_command("tune", STUDY, "name=demo", "--fresh"), check=True)
    port = _free_port()
    service = subprocess.Popen(_command("serve", "runs/demo", f"serve.port={port}"))
    try:
        response = _request_prediction(f"http://127.0.0.1:{port}", service)
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)
    print(json.dumps(response))
    return 0


def _command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mbti_ray.{verb}", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _request_prediction(url: str, service: subprocess.Popen[bytes]) -> object:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"the service exited with code {service.returncode}")
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    print(f"POST {url}/predict: {TEXT}", flush=True)
    response = httpx.post(f"{url}/predict", json={"inputs": TEXT}, timeout=30)
    response.raise_for_status()
    return response.json()


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
