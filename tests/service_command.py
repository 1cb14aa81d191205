"""The service as a user runs it: the command, HAProxy and a Ray of its own; and load generators."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from processes import command_line, descendants

REPLICA = "ray::ServeReplica:mbti"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """A running `python -m mbti_ray.serve`."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Another `mbti_ray.serve` command against this service."""
        return subprocess.run(
            [sys.executable, "-m", "mbti_ray.serve", *words, f"serve.port={self.port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def haproxy_config(self) -> Path:
        """The configuration file of the HAProxy that listens on this service's port."""
        for folder in Path("/proc").glob("[0-9]*"):
            words = command_line(int(folder.name)).split("\0")
            if words[0].endswith("haproxy") and "-f" in words:
                config = Path(words[words.index("-f") + 1])
                if config.is_file() and f"127.0.0.1:{self.port}\n" in config.read_text("utf-8"):
                    return config
        raise AssertionError("no HAProxy listens there")

    def replicas(self) -> list[int]:
        """Process ids of its replicas."""
        return descendants(REPLICA, of=self.process.pid)


@contextmanager
def served(bundle: Path, folder: Path, *words: str) -> Iterator[Service]:
    """The command with a bundle and further arguments, until the end of the block."""
    port = free_port()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for name in ("METRICS", "STATS"):
        environment[f"RAY_SERVE_HAPROXY_{name}_PORT"] = str(free_port())
    command = [sys.executable, "-m", "mbti_ray.serve", str(bundle), f"serve.port={port}", *words]
    log = folder / "service.log"
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        try:
            wait_for_output("is ready", log, process)
            yield Service(process, f"http://127.0.0.1:{port}", log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for_output(words: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 120
    while words not in log.read_text("utf-8"):
        if time.monotonic() > end or process.poll() is not None:
            process.kill()
            raise AssertionError(log.read_text("utf-8"))
        time.sleep(0.1)


@dataclass
class Load:
    """Clients that send one request after the other; the responses by status and bundle.

    Status 0 is a broken connection.
    """

    url: str
    clients: int = 4
    # Of each client, between a response and its next request.
    pause_s: float = 0.0
    body: dict[str, Any] | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        stop = threading.Event()
        threads = [threading.Thread(target=self._send, args=(n, stop)) for n in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def wait_for(self, more: int) -> None:
        """Until that many more responses have arrived."""
        goal = self.statuses.total() + more
        end = time.monotonic() + 120
        while self.statuses.total() < goal:
            assert time.monotonic() < end, f"no responses: {self.statuses}"
            time.sleep(0.02)

    def _send(self, number: int, stop: threading.Event) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            count = 0
            while not stop.wait(self.pause_s):
                count += 1
                body = self.body or {"inputs": f"a quiet evening, number {number} {count}"}
                start = time.perf_counter()
                try:
                    response = client.post("/predict", json=body)
                except httpx.TransportError:
                    self.statuses[0] += 1
                    continue
                self.statuses[response.status_code] += 1
                if response.status_code == 200:
                    self.seconds.append(time.perf_counter() - start)
                    self.bundles[response.headers["x-bundle-id"]] += 1


def resident_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


def open_loop(url: str, body: dict[str, Any], *, rate: float, seconds: float) -> Load:
    """Sends `rate` requests per second for `seconds`, then waits for all responses."""
    load = Load(url)

    async def ask(session: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        try:
            async with session.post(f"{url}/predict", json=body) as response:
                await response.read()
        except aiohttp.ClientError:
            load.statuses[0] += 1
            return
        load.statuses[response.status] += 1
        if response.status == 200:
            load.seconds.append(time.perf_counter() - start)

    async def main() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            start = time.perf_counter()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                tasks.create_task(ask(session))

    asyncio.run(main())
    return load
