"""Requests when a replica is lost, and slots when clients disconnect."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbti_ray.config.serve_section import ServeConfig
from service_command import Load, served

pytestmark = [pytest.mark.long]


def test_a_killed_replica_loses_only_its_own_requests(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "serve.replicas=2") as service:
        before = service.replicas()
        assert len(before) == 2
        with Load(service.url, clients=6).running() as load:
            load.wait_for(200)
            os.kill(before[0], signal.SIGKILL)
            load.wait_for(1000)
            end = time.monotonic() + 120
            while len(service.replicas()) < 2:
                assert time.monotonic() < end, "the lost replica was not restarted"
                time.sleep(0.2)
            load.wait_for(200)
        lost = load.statuses.total() - load.statuses[200]
        print(f"kill -9 of one of two replicas: {load.statuses}")
        # At most the requests in flight of the six clients, half of them on that replica.
        assert lost <= load.clients


def test_a_disconnected_client_releases_its_slot(bundle: Path, tmp_path: Path) -> None:
    slots = 4
    with served(bundle, tmp_path, f"serve.max_queued={slots}") as service:

        def disconnect(_: int) -> None:
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
                connection.sendall(head + b'Content-Type: application/json\r\n\r\n{"inputs"')
                time.sleep(0.05)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(disconnect, range(400)))
        end = time.monotonic() + ServeConfig().deadline_s
        with service.client() as client:
            while client.post("/predict", json={"inputs": "a"}).status_code != 200:
                assert time.monotonic() < end, "slots are still taken"
                time.sleep(0.1)
