"""The load generator of benchmarks/serve.py: wrk, or clients in Python where there is no wrk."""

import asyncio
import json
import shutil
import statistics
import subprocess
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp

Figures = dict[str, Any]
# wrk is written in C: Python clients take a core from the service that they measure.
NAME = "wrk" if shutil.which("wrk") else "aiohttp"
_TIMEOUT_S = 60


def closed_loop(url: str, bodies: Path, clients: int, seconds: float) -> Figures:
    """So many clients, each of which asks again as soon as it is answered.

    Args:
        bodies: A file with the JSON of a request in each line.
    """
    if NAME == "wrk":
        found = _ask_by_wrk(url, bodies, clients, seconds)
    else:
        found = asyncio.run(
            _ask_by_aiohttp(url, bodies.read_bytes().splitlines(), clients, seconds)
        )
    return {**found, "requests_s": found["answers"] / found["seconds"]}


def _ask_by_wrk(url: str, bodies: Path, clients: int, seconds: float) -> Figures:
    command = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={round(seconds)}s"]
    command += [f"--timeout={_TIMEOUT_S}s", f"--script={Path(__file__).with_name('wrk.lua')}"]
    done = subprocess.run(
        [*command, f"{url}/predict", "--", str(bodies)], check=True, capture_output=True, text=True
    )
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return found


async def _ask_by_aiohttp(url: str, bodies: list[bytes], clients: int, seconds: float) -> Figures:
    latencies: list[float] = []
    errors = 0
    waiting = cycle(bodies)
    start = time.perf_counter()

    async def client() -> None:
        nonlocal errors
        while (asked := time.perf_counter()) < start + seconds:
            try:
                async with session.post(f"{url}/predict", data=next(waiting)) as response:
                    await response.read()
                    response.raise_for_status()
            except (aiohttp.ClientError, TimeoutError):
                errors += 1
            else:
                latencies.append(time.perf_counter() - asked)

    async with aiohttp.ClientSession(
        headers={"Content-Type": "application/json"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(_TIMEOUT_S),
    ) as session:
        await asyncio.gather(*(client() for _ in range(clients)))
    ordered = sorted(latencies) or [float("nan")]
    return {
        "answers": len(latencies),
        # What was asked in time is waited for: so many answers took so long.
        "seconds": time.perf_counter() - start,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        "errors": errors,
    }
