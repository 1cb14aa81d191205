"""The HTTP service on Ray Serve: replicas that hold the model and join requests into batches.

Owns processes, threads, queues and ports. The routes are in `http`, the shapes in `wire`.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig, HTTPOptions

from mbti_ray.bundle import read_manifest
from mbti_ray.config.schema import ServeConfig
from mbti_ray.errors import BundleError, ClusterError
from mbti_ray.on_ray.cluster import connected
from mbti_ray.predictor import Prediction, Predictor
from mbti_ray.serving.http import RETRY_AFTER_S, build_api

APP_NAME = "mbti"
# Pages and probes are answered although as many predictions wait as may.
_SPARE_REQUESTS = 64
# A burst stands in Ray's queue for some milliseconds before a replica can turn it away.
_BURST_REQUESTS = 1000
_READY_TIMEOUT_S = 60.0
# HAProxy opens these too, on all interfaces; Ray lets them be moved but not bound to one.
_HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}

Item = tuple[bool, tuple[str, ...]]


class MbtiService:
    """One replica: a bundle, the thread that computes, and the queue in front of it."""

    def __init__(self, bundle: str, config: ServeConfig) -> None:
        self._config = config
        # One thread for everything that computes, since torch keeps its number of threads for each.
        self._thread = ThreadPoolExecutor(
            1, "forward", initializer=torch.set_num_threads, initargs=(config.cpus,)
        )
        self._predictor = self._thread.submit(_load_warm, Path(bundle), config).result()
        self._idle = asyncio.Event()
        self._idle.set()
        self._batched = serve.batch(
            max_batch_size=config.batch_size,
            batch_wait_timeout_s=config.batch_wait_s,
            max_concurrent_batches=1,
        )(self._read_batch)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, self._config)

    @property
    def bundle_id(self) -> str:
        return self._predictor.bundle_id

    @property
    def info(self) -> dict[str, Any]:
        return self._predictor.info

    @property
    def is_ready(self) -> bool:
        # A replica whose constructor did not load, check and warm up does not start.
        return True

    async def predict(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[Prediction]:
        """One prediction for each of `users`, each of which may join another batch."""
        return await asyncio.gather(*(self._predict_one((whole, tuple(u))) for u in users))

    def reading(self, post: str) -> dict[str, Any]:
        """What the model reads of a post; see `Predictor.reading`."""
        return self._predictor.reading(post)

    async def _predict_one(self, item: Item) -> Prediction:
        # serve.batch would close a batch every few milliseconds while the model is busy, and a row
        # of small batches would wait. Waiting here instead, they become one batch afterwards.
        await self._idle.wait()
        prediction: Prediction = await self._batched(item)
        return prediction

    async def _read_batch(self, items: list[Item]) -> list[Prediction]:
        self._idle.clear()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._read, items)
        finally:
            self._idle.set()

    def _read(self, items: list[Item]) -> list[Prediction]:
        found: dict[int, Prediction] = {}
        for whole in (False, True):
            places = [i for i, item in enumerate(items) if item[0] is whole]
            if places:
                users = [items[i][1] for i in places]
                found.update(zip(places, self._predictor.predict(users, whole=whole), strict=True))
        return [found[i] for i in range(len(items))]


def build_app(bundle: Path, config: ServeConfig) -> serve.Application:
    """The Serve application that answers from `bundle`, which every node must find at that path."""
    deployment = serve.deployment(
        serve.ingress()(MbtiService),
        name=APP_NAME,
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus},
        # The replica turns requests away itself, at once and in JSON. Ray's own limit lies behind
        # it, for a flood; its 429 is plain text.
        max_ongoing_requests=config.max_queued + _SPARE_REQUESTS,
        max_queued_requests=_BURST_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        # A damaged bundle is as damaged at the second try.
        max_constructor_retry_count=1,
    )
    return deployment.bind(str(bundle.resolve()), config)


def start_service(bundle: Path, config: ServeConfig) -> str:
    """Starts the service in the Ray that is connected; its address, once it is ready.

    Raises:
        BundleError: The bundle cannot be served.
        ClusterError: There are too few CPUs, or it did not become ready.
    """
    _check_cpus(config)
    serve.start(http_options=HTTPOptions(host=config.host, port=config.port))
    try:
        serve.run(build_app(bundle, config), name=APP_NAME)
    except RuntimeError as error:
        raise _deploy_error(error, bundle) from None
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    _wait_ready(url)
    return url


def run_service(bundle: Path, config: ServeConfig, *, on_ready: Callable[[str], None]) -> str:
    """Serves until SIGINT or SIGTERM, then ends every process that it started.

    Args:
        bundle: The folder to serve.
        config: Where and how.
        on_ready: Called with the address when the service answers.

    Returns:
        The address that was served at.

    Raises:
        BundleError, ClusterError: See `start_service`; also, a port is taken.
    """
    read_manifest(bundle)
    _check_ports(config)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _end_on(signal.default_int_handler)
    with connected():
        # Again, because ray.init installs a handler that ends this process before the others.
        _end_on(signal.default_int_handler)
        try:
            url = start_service(bundle, config)
            on_ready(url)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            _end_on(signal.SIG_IGN)
            serve.shutdown()
    return url


def _end_on(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _load_warm(bundle: Path, config: ServeConfig) -> Predictor:
    predictor = Predictor.load(bundle, runtime=config.runtime, threads=config.cpus)
    predictor.warm_up()
    return predictor


def _check_ports(config: ServeConfig) -> None:
    """Ray itself would retry for minutes to bind a port that is taken."""
    if os.environ.get("RAY_ADDRESS"):
        return
    wanted = [(config.host, config.port, f"serve.port={config.port}; choose another")]
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for name, default in _HAPROXY_PORTS.items():
            port = int(os.environ.get(name, default))
            wanted.append(("", port, f"set {name} to a port that is free"))
    for host, port, remedy in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                where = f"{host or 'port'}:{port}"
                raise ClusterError(f"{where}: {error.strerror}; {remedy}") from None


def _check_cpus(config: ServeConfig) -> None:
    wanted = config.replicas * config.cpus
    there = int(ray.cluster_resources().get("CPU", 0))
    if wanted > there:
        raise ClusterError(
            f"serve.replicas={config.replicas} x serve.cpus={config.cpus} needs {wanted} CPUs; "
            f"the cluster has {there}"
        )


def _deploy_error(error: RuntimeError, bundle: Path) -> BundleError | ClusterError:
    status = serve.status().applications.get(APP_NAME)
    text = status.message if status else str(error)
    for deployment in status.deployments.values() if status else ():
        text += "\n" + deployment.message
    marker = f"{BundleError.__name__}: "
    for line in text.splitlines():
        if marker in line:
            return BundleError(line.split(marker, 1)[1])
    last = text.strip().splitlines()[-1] if text.strip() else str(error)
    return ClusterError(f"{bundle}: the service did not start: {last}")


def _wait_ready(url: str) -> None:
    end = time.monotonic() + _READY_TIMEOUT_S
    last = "no answer"
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < end:
            try:
                response = client.get(f"{url}/ready")
                if response.status_code == 200:
                    return
                last = f"status {response.status_code}"
            except httpx.TransportError as error:
                last = type(error).__name__
            time.sleep(0.1)
    raise ClusterError(f"{url}/ready: not ready after {_READY_TIMEOUT_S:g} s ({last})")
