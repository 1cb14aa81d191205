"""The HTTP service on Ray Serve: replicas that hold the model.

Owns processes, threads, queues and ports. The routes are in `http`, the shapes in `wire`.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from mbti_ray.checks.ports import HAPROXY_PORTS, port_problem
from mbti_ray.config.schema import ServeConfig
from mbti_ray.errors import BundleError, ClusterError
from mbti_ray.inference.bundle import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.on_ray.cluster.resources import ray_connection
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.serve.metrics import ServeFigures
from mbti_ray.on_ray.serve.rollout import roll_back, roll_out, watch_board
from mbti_ray.on_ray.serve.rollout_coordinator import wanted_now
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle
from mbti_ray.serving.app import RETRY_AFTER_S, build_api, key_digest
from mbti_ray.serving.discovery import found_by
from mbti_ray.serving.router import Shelf
from mbti_ray.serving.served_model import Reader, warm_up
from mbti_ray.serving.target import Wanted
from mbti_ray.storage.remote import Location, absolute_location

APP_NAME = "mbti"
# The environment variable with the key that /predict and /info then ask for.
API_KEY_NAME = "MBTI_RAY_API_KEY"
# Enough to fill a forward pass while the one before is read.
_REQUESTS_A_REPLICA = 16
# Pages and probes are answered although as many predictions wait as may, and although so many
# clients are slow to send theirs.
_SPARE_REQUESTS = 1024
# A burst stands in Ray's queue for some milliseconds before a replica can turn it away.
_BURST_REQUESTS = 1000
_READY_TIMEOUT_S = 60.0


class MbtiService:
    """One replica: a shelf of bundles behind queues, and the thread that computes."""

    def __init__(
        self, service: str, wanted: Wanted, config: ServeConfig, key_hash: str | None = None
    ) -> None:
        self._service = service
        self._config = config
        self._key_hash = key_hash
        self._figures = ServeFigures()
        start_malloc_trim_thread()
        # One thread for everything that computes, since torch keeps its number of threads for each.
        self._thread = ThreadPoolExecutor(
            1, "forward", initializer=torch.set_num_threads, initargs=(config.cpus,)
        )
        self._shelf = Shelf(self._load, wanted_now(service) or wanted)
        replica = serve.get_replica_context().replica_id.unique_id
        watch_board(service, replica, self._shelf)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(
            self._shelf,
            self._config,
            key_hash=self._key_hash,
            count_error=self._figures.count_error,
        )

    def about(self) -> tuple[str, ServeConfig]:
        """The name of the service, by which its board is found, and how it serves."""
        return self._service, self._config

    def _load(self, place: str, there: Reader | None) -> Reader:
        folder = fetch_bundle(place)
        if there is not None and there.bundle_id == load_manifest(folder).id:
            return there
        config = self._config
        predictor = Predictor.load(
            folder,
            runtime=config.runtime,
            device="cuda" if config.gpus else "cpu",
            threads=config.cpus,
        )
        speed = warm_up(predictor, self._thread)
        return Reader(predictor, self._thread, config, tokens_per_s=speed, watcher=self._figures)


def build_app(bundle: Location, config: ServeConfig) -> serve.Application:
    """The Serve application that answers from `bundle`, which every node must find there."""
    deployment = serve.deployment(
        serve.ingress()(MbtiService),
        name=APP_NAME,
        **_scale(config),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        # The replica turns requests away itself, at once and in JSON. Ray's own limit lies behind
        # it, for a flood; its 429 is plain text.
        max_ongoing_requests=config.max_queued + _SPARE_REQUESTS,
        max_queued_requests=_BURST_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        # One object a line: time, route, status, request id; never a body.
        logging_config=LoggingConfig(encoding="JSON"),
        # A damaged bundle is as damaged at the second try.
        max_constructor_retry_count=1,
    )
    key = os.environ.get(API_KEY_NAME)
    return deployment.bind(
        uuid4().hex, wanted_of(bundle, config), config, key_digest(key) if key else None
    )


def wanted_of(bundle: Location, config: ServeConfig) -> Wanted:
    """A bundle and what `config` puts beside it, at places that any process understands."""
    beside = absolute_location(locate_bundle(config.beside, "")) if config.beside else None
    return Wanted(absolute_location(bundle), beside, config.beside_share)


def _scale(config: ServeConfig) -> dict[str, Any]:
    if isinstance(config.replicas, int):
        return {"num_replicas": config.replicas}
    scaling = AutoscalingConfig(
        min_replicas=config.least_replicas,
        max_replicas=config.most_replicas,
        target_ongoing_requests=_REQUESTS_A_REPLICA,
    )
    return {"autoscaling_config": scaling}


def start_service(bundle: Location, config: ServeConfig) -> str:
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


def run_service(bundle: Location, config: ServeConfig, *, on_ready: Callable[[str], None]) -> str:
    """Serves until SIGINT or SIGTERM, then ends every process that it started.

    Args:
        bundle: The folder to serve, or its URL.
        config: Where and how.
        on_ready: Called with the address when the service answers.

    Returns:
        The address that was served at.

    Raises:
        BundleError, ClusterError: See `start_service`; also, a port is taken.
    """
    load_manifest(fetch_bundle(bundle))
    _check_ports(config)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _end_on(signal.default_int_handler)
    with ray_connection(f"serve {APP_NAME}"):
        # Again, because ray.init installs a handler that ends this process before the others.
        _end_on(signal.default_int_handler)
        try:
            url = start_service(bundle, config)
            ray_address = ray.get_runtime_context().gcs_address
            with found_by(config.port, ray_address), suppress(KeyboardInterrupt):
                on_ready(url)
                threading.Event().wait()
        finally:
            _end_on(signal.SIG_IGN)
            serve.shutdown()
    return url


def change_bundle(bundle: Location | None, config: ServeConfig) -> Wanted:
    """Have the service of the Ray that RAY_ADDRESS names answer with another bundle.

    Args:
        bundle: None goes back to what was served before the last change.
        config: What stands beside it.

    Returns:
        What is served now.

    Raises:
        BundleError: It cannot be served; what was served before still is.
        ClusterError: No service runs; or not all replicas changed, so that none did.
    """
    with ray_connection(f"serve {APP_NAME}: roll out"):
        try:
            service, running = serve.get_app_handle(APP_NAME).about.remote().result()
        except RayServeException:
            there = os.environ.get("RAY_ADDRESS")
            raise ClusterError(f"RAY_ADDRESS={there}: no service runs there") from None
        states = serve.status().applications[APP_NAME].deployments[APP_NAME].replica_states
        facts = {"runtime": running.runtime, "replicas": states.get("RUNNING", 1)}
        if bundle is None:
            return roll_back(service, **facts)
        return roll_out(service, wanted_of(bundle, config), **facts)


def _end_on(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _check_ports(config: ServeConfig) -> None:
    """Ray itself would retry for minutes to bind a port that is taken."""
    if os.environ.get("RAY_ADDRESS"):
        return
    wanted = [(config.host, config.port, f"serve.port={config.port}; choose another")]
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for name, default in HAPROXY_PORTS.items():
            port = int(os.environ.get(name, default))
            wanted.append(("", port, f"set {name} to a port that is free"))
    for host, port, remedy in wanted:
        reason = port_problem(host, port)
        if reason is not None:
            raise ClusterError(f"{host or 'port'}:{port}: {reason}; {remedy}")


def _check_cpus(config: ServeConfig) -> None:
    wanted = config.least_replicas * config.cpus
    there = int(ray.cluster_resources().get("CPU", 0))
    if wanted > there:
        raise ClusterError(
            f"serve.replicas={config.least_replicas} x serve.cpus={config.cpus} needs {wanted} "
            f"CPUs; the cluster has {there}"
        )


def _deploy_error(error: RuntimeError, bundle: Location) -> BundleError | ClusterError:
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
