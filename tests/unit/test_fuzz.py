"""Malformed HTTP against a real server in this process; tests/long has the service on Ray."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from http_client import Echo
from raw_requests import raw_requests, send_raw

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.serving.app import build_api

pytestmark = pytest.mark.unit

SLOTS = 2


@contextmanager
def serving(model: Echo) -> Iterator[int]:
    """A server with `SLOTS` slots and a short deadline; its port."""
    api = build_api(model, ServeConfig(max_queued=SLOTS, deadline_s=0.5))
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def test_malformed_http_gets_no_5xx_and_holds_no_slot() -> None:
    with serving(Echo()) as port:
        statuses = send_raw(port, raw_requests(120), timeout_s=0.1)
        assert not any(status.startswith(b"5") for status in statuses), statuses
        # The cases reach the application, not the parser only.
        assert statuses[b"200"]
        assert statuses[b"400"] + statuses[b"404"] + statuses[b"405"] > 10
        asyncio.run(all_slots_are_free(port))


async def all_slots_are_free(port: int) -> None:
    url = f"http://127.0.0.1:{port}/predict"
    async with httpx.AsyncClient(trust_env=False) as client:
        requests = [client.post(url, json={"inputs": "a"}) for _ in range(SLOTS)]
        assert [r.status_code for r in await asyncio.gather(*requests)] == [200] * SLOTS
