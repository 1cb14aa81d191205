"""End-to-end demo: run a small study, serve its best model, send one request, shut down.

Runs the commands that a user would type, and prints the service's response as the last line.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
STUDY = "tune_configs/quick.yaml"
# The built-in corpus is small and synthetic: a model trained on it knows the words of that corpus.
TEXT = (
    "Nothing beats silence and books. I think about theories and patterns, trust logic and "
    "evidence, and keep lists of my plans and deadlines."
)


def main() -> int:
    subprocess.run(_command("tune", STUDY, "name=demo", "--fresh"), check=True)
    url = f"http://127.0.0.1:{_free_port()}"
    command = _command("serve", "runs/demo", f"serve.port={url.rpartition(':')[2]}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            _wait_until_ready(service)
            asked = f"POST {url}/predict: {TEXT}"
            print(textwrap.fill(asked, shutil.get_terminal_size().columns), flush=True)
            response = httpx.post(f"{url}/predict", json={"inputs": TEXT}, timeout=30)
            response.raise_for_status()
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(timeout=60)
    print(json.dumps(response.json()))
    return 0


def _wait_until_ready(service: "subprocess.Popen[str]") -> None:
    """Show what the service prints until it is ready."""
    assert service.stdout is not None
    for line in service.stdout:
        print(line, end="", flush=True)
        if " is ready; " in line:
            return
    raise SystemExit(f"the service exited with code {service.wait()}")


def _command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mbti_ray.{verb}", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
