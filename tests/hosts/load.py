"""Clients that ask a service one question after the other; runs on a test host.

`python load.py URL CLIENTS SECONDS FILE` leaves a JSON line for each request in the file: when it
began and ended, and its status, 0 where there was no answer.
"""

import json
import sys
import threading
import time
from pathlib import Path

import httpx


def ask(url: str, end: float, lines: list[dict[str, float]]) -> None:
    """Ask until the end; a lost connection is an answer, too."""
    with httpx.Client(timeout=30.0, trust_env=False) as client:
        while time.time() < end:
            began = time.time()
            try:
                status = client.post(url, json={"inputs": f"I read {began}"}).status_code
            except httpx.TransportError:
                status = 0
            lines.append({"began": began, "ended": time.time(), "status": status})


if __name__ == "__main__":
    url, clients, seconds, file = sys.argv[1:]
    lines: list[dict[str, float]] = []
    end = time.time() + float(seconds)
    threads = [threading.Thread(target=ask, args=(url, end, lines)) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
