"""The service under mixed load for half an hour: does its memory stay where it is?

    python benchmarks/soak.py [--minutes 30] [--rate 8] [--source FILE.csv]

One service (`python -m mbti_ray.serve`, the encoder of the preset minilm, fresh heads) is asked at
a fixed rate: short and long texts, users with the influence of their posts, malformed bodies,
clients that hang up. Every five minutes another bundle is rolled out, and back. The resident memory
of each of its processes is noted every ten seconds. The last line is one JSON object: minutes,
requests, statuses, roll_outs, replica_mib_after_warm_up, replica_mib_at_end, growth_mib_per_hour
(the slope of a straight line through the replica's memory after the first third). The whole curve
is kept in results/soak.json.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from serve import RESULTS, Side, build_bundle, machine, read_texts

_SAMPLE_S = 10.0
_ROLL_OUT_S = 300.0
_JSON = {"Content-Type": "application/json"}
_KINDS = ("text", "text", "text", "texts", "user", "malformed", "hang up")
_PROCESSES = ("ray::ServeReplica", "ray::ServeController", "ray::Proxy", "haproxy", "gcs_server")

Curve = list[dict[str, float]]


def memory_mib() -> dict[str, float]:
    """Resident MiB of the processes of a service, by what they are; there is one Ray here."""
    found: Counter[str] = Counter()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
            pages = int((folder / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        name = next((name for name in _PROCESSES if name in line[:200]), None)
        if name:
            found[name] += pages * 4096 / 2**20
    return {name: round(value, 1) for name, value in found.items()}


def body_of(kind: str, texts: list[str], chance: random.Random) -> bytes:
    if kind == "malformed":
        return chance.choice([b"{", b'{"inputs": 1}', b'{"posts": []}', b"\xff", b"[]"])
    some = chance.sample(texts, 6)
    body: dict[str, Any] = {"inputs": some[0]}
    if kind == "texts":
        body = {"inputs": [*some, " ".join(texts[:40])]}
    if kind == "user":
        body = {"posts": some, "influence": True, "explain": True}
    return json.dumps(body).encode()


async def ask(session: aiohttp.ClientSession, url: str, kind: str, body: bytes) -> str:
    patience = aiohttp.ClientTimeout(total=0.01 if kind == "hang up" else 60)
    try:
        async with session.post(
            f"{url}/predict", data=body, headers=_JSON, timeout=patience
        ) as response:
            await response.read()
            return str(response.status)
    except TimeoutError:
        return "hung up" if kind == "hang up" else "no answer"
    except aiohttp.ClientError:
        return "broken"


async def load(url: str, texts: list[str], rate: float, end: float) -> Counter[str]:
    """Asks at a fixed rate until the end, answered or not; answers by status."""
    chance = random.Random(0)
    statuses: Counter[str] = Counter()
    waiting: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> None:
            kind = chance.choice(_KINDS)
            statuses[await ask(session, url, kind, body_of(kind, texts, chance))] += 1

        while time.monotonic() < end:
            task = asyncio.create_task(one())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(chance.expovariate(rate))
        await asyncio.gather(*waiting)
    return statuses


async def watch(end: float) -> Curve:
    start, curve = time.monotonic(), []
    while time.monotonic() < end:
        curve.append({"s": round(time.monotonic() - start, 1), **memory_mib()})
        await asyncio.sleep(_SAMPLE_S)
    return curve


async def change(side: Side, bundles: list[Path], end: float) -> list[int]:
    """Rolls another bundle out again and again; exit codes of the commands."""
    codes = []
    while time.monotonic() + _ROLL_OUT_S < end:
        await asyncio.sleep(_ROLL_OUT_S)
        bundle = bundles[(len(codes) + 1) % len(bundles)]
        command = [sys.executable, "-m", "mbti_ray.serve", str(bundle), "--roll-out"]
        port = side.url.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *command, f"serve.port={port}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        codes.append(await process.wait())
    return codes


async def soak(side: Side, bundles: list[Path], texts: list[str], options: Any) -> dict[str, Any]:
    end = time.monotonic() + 60 * options.minutes
    statuses, curve, codes = await asyncio.gather(
        load(side.url, texts, options.rate, end),
        watch(end),
        change(side, bundles, end),
    )
    settled = curve[len(curve) // 3 :]
    hours = np.array([point["s"] for point in settled]) / 3600
    replica = np.array([point["ray::ServeReplica"] for point in settled])
    return {
        "minutes": options.minutes,
        "requests": statuses.total(),
        "statuses": dict(statuses),
        "roll_outs": len(codes),
        "roll_outs_failed": sum(code != 0 for code in codes),
        "replica_mib_after_warm_up": float(replica[0]),
        "replica_mib_at_end": float(replica[-1]),
        "growth_mib_per_hour": round(float(np.polyfit(hours, replica, 1)[0]), 1),
        "curve": curve,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, help="default: the built-in corpus")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=8, help="requests a second")
    options = parser.parse_args()
    source = str(options.source.resolve()) if options.source else "builtin"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundles = [build_bundle(source, folder / str(seed), seed=seed) for seed in (0, 1)]
        side = Side("torch", bundles[0], folder, folder / "log.txt")
        try:
            texts = read_texts(source)
            side.wait_ready(texts[0])
            found = asyncio.run(soak(side, bundles, texts, options))
        finally:
            side.end()
    curve = found.pop("curve")
    command = f"python benchmarks/soak.py --minutes {options.minutes:g} --rate {options.rate:g}"
    record = {"command": command, "machine": machine(), **found, "curve": curve}
    (RESULTS / "soak.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
