"""The service behind HAProxy under malformed HTTP, huge requests and half-sent requests."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from raw_requests import raw_requests, send_raw
from schemathesis import GenerationMode

from service_command import Service, resident_mib, served

pytestmark = [pytest.mark.long]

SLOTS = 4
DEADLINE_S = 5
RAW_CASES = 400
JSON_CASES = 10_000
JSON_TYPE = {"Content-Type": "application/json"}
# Answers of the table; all else in the range of 500 would be a fault of the service.
DEADLINE = 504


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = [f"serve.max_queued={SLOTS}", f"serve.deadline_s={DEADLINE_S}"]
    with served(bundle, tmp_path_factory.mktemp("service"), *limits) as running:
        yield running


@contextmanager
def probed(service: Service) -> Iterator[list[float]]:
    """The seconds that /health took to answer, again and again until the end of the block."""
    seconds: list[float] = []
    end = threading.Event()

    def probe() -> None:
        with service.client() as client:
            while not end.wait(0.02):
                start = time.perf_counter()
                assert client.get("/health").status_code == 200
                seconds.append(time.perf_counter() - start)

    with ThreadPoolExecutor(1) as thread:
        probing = thread.submit(probe)
        try:
            yield seconds
        finally:
            end.set()
            probing.result()


def wait_until_all_slots_are_free(service: Service) -> None:
    """As many predictions at once as there are slots; abandoned ones have until the deadline."""

    def predict(_: int) -> int:
        with service.client() as client:
            return client.post("/predict", json={"inputs": "a quiet evening"}).status_code

    end = time.monotonic() + 2 * DEADLINE_S
    with ThreadPoolExecutor(SLOTS) as pool:
        while set(pool.map(predict, range(SLOTS))) != {200}:
            assert time.monotonic() < end, "slots are still taken"
            time.sleep(0.1)


def test_malformed_http_gets_no_5xx_but_deadlines_and_holds_no_slot(service: Service) -> None:
    (replica,) = service.replicas()
    wait_until_all_slots_are_free(service)
    send_raw(service.port, raw_requests(100, seed=1), timeout_s=0.3)
    before = resident_mib(replica)
    statuses = send_raw(service.port, raw_requests(RAW_CASES), timeout_s=0.3)
    print(f"{RAW_CASES} raw cases: {dict(statuses)}, {resident_mib(replica) - before:+.1f} MiB")
    assert not any(s.startswith(b"5") and int(s) != DEADLINE for s in statuses), statuses
    assert service.replicas() == [replica]
    assert resident_mib(replica) < 1.1 * before
    wait_until_all_slots_are_free(service)


# One word, white space, another script, what is masked, what is invisible, what is mojibake.
HUGE = {
    "words": "a quiet evening with many words ",
    "one word": "a",
    "CJK": "漢字 ",
    "types": "I N T J ",
    "links": "http://example.org/a ",
    "joiners": "\u200d",
    "mojibake": "schÃ¶n ",
    "accents": "e\u0301",
}


def huge_bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests of nearly a megabyte, each with a name."""
    for name, part in HUGE.items():
        text = (part * 990_000)[: 980_000 // max(len(c.encode()) for c in part)]
        yield name, {"inputs": text, "explain": True}
        yield f"{name}, one user", {"posts": [text], "explain": True}
    yield "empty texts", {"inputs": [""] * 240_000}
    yield "unknown fields", {f"a{n}": 1 for n in range(80_000)}
    yield (
        "influence",
        {"posts": ["a quiet evening " * 1800 + str(n) for n in range(32)], "influence": True},
    )


def test_a_huge_request_keeps_neither_probes_nor_others_waiting(service: Service) -> None:
    longest = {}
    with service.client() as client:
        for name, body in huge_bodies():
            content = json.dumps(body, ensure_ascii=False).encode()
            with probed(service) as seconds:
                status = client.post("/predict", content=content, headers=JSON_TYPE).status_code
            assert status in (200, 413, 422), (name, status)
            longest[name] = max(seconds, default=0.0)
    print("longest /health during:", {k: round(v, 3) for k, v in longest.items()})
    assert max(longest.values()) < 0.5, longest
    wait_until_all_slots_are_free(service)


def test_half_sent_requests_are_ended_and_others_are_answered_again(service: Service) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    kinds = {"headers": head, "bodies": head + b'Content-Length: 100\r\n\r\n{"inputs": '}
    for kind, half in kinds.items():
        with ExitStack() as ends:
            clients = []
            for _ in range(4150 if kind == "headers" else 1300):
                address = ("127.0.0.1", service.port)
                clients.append(ends.enter_context(socket.create_connection(address)))
                clients[-1].sendall(half)
            start = time.monotonic()
            with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as client:
                while True:
                    try:
                        status = client.post("/predict", json={"inputs": "a"}).status_code
                    except httpx.TransportError:
                        status = 0
                    if status == 200:
                        break
                    # By default HAProxy holds them for an hour.
                    assert time.monotonic() < start + 10 * DEADLINE_S, status
            print(f"{len(clients)} half-sent {kind}: {time.monotonic() - start:.1f} s")


def test_requests_that_violate_the_schema_never_get_a_5xx(service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operation = schema["/predict"]["POST"]
    statuses: dict[int, int] = {}

    @seed(0)
    @settings(
        max_examples=JSON_CASES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def ask(case: schemathesis.Case) -> None:
        response = case.call()
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, response.text

    ask()
    print(f"violating the schema: {statuses}")
    # Some mutations (of a method, a header) never reach the validation of the body.
    assert sum(statuses.values()) >= JSON_CASES
    assert statuses.get(422, 0) + statuses.get(400, 0) + statuses.get(415, 0) > JSON_CASES / 2


def test_corrupted_bodies_never_get_a_5xx(service: Service) -> None:
    chance = random.Random(0)
    valid = b'{"posts": ["a", "b"], "influence": true, "truncate": false}'
    with service.client() as client:
        for _ in range(2000):
            broken = bytearray(valid)
            for _ in range(chance.randint(1, 8)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            response = client.post("/predict", content=bytes(broken), headers=JSON_TYPE)
            assert response.status_code in (200, 400, 413, 422), response.text
    wait_until_all_slots_are_free(service)
