"""The service under overload and slow clients."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service_command import Load, Service, open_loop, resident_mib, served

pytestmark = [pytest.mark.long]

# Heavy, so that sending costs little in comparison: the clients share the machine.
HEAVY = {"inputs": [f"{n} quiet evening with many words " * 60 for n in range(32)]}
MAX_WAIT_S = 2.0
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    limits = [f"serve.max_wait_s={MAX_WAIT_S:g}", "serve.deadline_s=10"]
    with served(bundle, folder, *limits) as running:
        yield running


def test_at_twice_its_capacity_requests_get_200_or_429_at_once_and_memory_is_stable(
    service: Service,
) -> None:
    (replica,) = service.replicas()
    with Load(service.url, clients=8, body=HEAVY).running() as load:
        load.wait_for(20)
        start, before = time.monotonic(), load.statuses[200]
        load.wait_for(100)
        capacity = (load.statuses[200] - before) / (time.monotonic() - start)
    warm = open_loop(service.url, HEAVY, rate=2 * capacity, seconds=15)
    memory = resident_mib(replica)
    found = open_loop(service.url, HEAVY, rate=2 * capacity, seconds=60)
    grown = resident_mib(replica) - memory
    assert set(warm.statuses + found.statuses) == {200, 429}
    # At twice the load about half is answered; far less would mean that too much is refused.
    assert found.statuses[200] > 0.3 * found.statuses.total()
    answered = sorted(found.seconds)
    p99 = answered[int(0.99 * len(answered))]
    print(f"capacity {capacity:.1f}/s, {found.statuses}, p99 {p99:.2f} s, memory {grown:+.1f} MiB")
    # Without a limit the last ones would have waited for half a minute.
    assert p99 < 4 * MAX_WAIT_S
    assert grown < 0.1 * memory


def test_slow_clients_do_not_keep_others_from_being_answered(service: Service) -> None:
    slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(200)]
    head = HEAD + b"Content-Length: 100\r\n\r\n" + b'{"inputs": '
    for connection in slow:
        connection.sendall(head)
    with Load(service.url, clients=4).running() as load:
        for connection in slow[:20]:
            connection.sendall(b'"')
        load.wait_for(200)
    assert set(load.statuses) == {200}
    # A body that never ends gets an error at the deadline, from the service or the proxy.
    slow[0].settimeout(60)
    status = slow[0].recv(1000).split(b" ")[1]
    assert status in (b"408", b"504")
    for connection in slow:
        connection.close()
