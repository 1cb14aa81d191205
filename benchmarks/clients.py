"""Clients of a service under measurement: a closed and an open loop, and what they saw."""

import asyncio
import random
import statistics
import time
from typing import Any

import aiohttp

Figures = dict[str, Any]


async def _ask(session: aiohttp.ClientSession, url: str, text: str, found: list[float]) -> int:
    start = time.perf_counter()
    try:
        async with session.post(f"{url}/predict", json={"inputs": text}) as response:
            await response.read()
            found.append(time.perf_counter() - start)
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


def _figures(latencies: list[float], statuses: list[int], seconds: float) -> Figures:
    done = sum(status == 200 for status in statuses)
    ordered = sorted(latencies) or [float("nan")]
    return {
        "requests_s": done / seconds,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "requests": len(statuses),
        "errors": len(statuses) - done,
    }


async def closed_loop(url: str, texts: list[str], clients: int, seconds: float) -> Figures:
    """Each client asks again as soon as it is answered."""
    latencies: list[float] = []
    statuses: list[int] = []
    start = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client(number: int) -> None:
            chance = random.Random(number)
            while time.perf_counter() < start + seconds:
                statuses.append(await _ask(session, url, chance.choice(texts), latencies))

        await asyncio.gather(*(client(n) for n in range(clients)))
    # What was asked in time is waited for: so many answers took so long.
    return _figures(latencies, statuses, time.perf_counter() - start)


async def open_loop(url: str, texts: list[str], rate: float, seconds: float) -> Figures:
    """Asks at a fixed rate, answered or not."""
    latencies: list[float] = []
    chance = random.Random(0)
    start = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            text = chance.choice(texts)
            tasks.append(asyncio.create_task(_ask(session, url, text, latencies)))
        statuses = list(await asyncio.gather(*tasks))
    return _figures(latencies, statuses, time.perf_counter() - start) | {"rate": rate}
