"""Starting and stopping the service, and changing what a running one serves.

Owns signals, ports and the checks before a start. The replicas are in `deployment`.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from mbti_ray.checks.ports import HAPROXY_PORTS, port_problem
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import BundleError, ClusterError, StoppedError
from mbti_ray.on_ray.cluster.resources import (
    Resources,
    cluster_nodes,
    ray_connection,
    worker_capacity,
)
from mbti_ray.on_ray.serve.deployment import APP_NAME, build_app, build_target, load_key_digest
from mbti_ray.on_ray.serve.rollout import roll_out
from mbti_ray.on_ray.serve.rollout_coordinator import current_target
from mbti_ray.on_ray.signals import handle_signals
from mbti_ray.serving.discovery import announce_service
from mbti_ray.serving.target import ServingTarget
from mbti_ray.storage.remote import Location

_READY_TIMEOUT_S = 60.0
_SHUTDOWN_TIMEOUT_S = 30.0


def start_service(bundle: Location, config: ServeConfig) -> str:
    """Starts the service in the connected Ray; returns its URL once it is ready.

    Raises:
        BundleError, ClusterError: The bundle cannot be served; it does not fit or start.
    """
    _check_resources(config)
    app = build_app(bundle, config)
    # It waits for its proxies; in a thread, so that the replicas start meanwhile.
    options = HTTPOptions(host=config.host, port=config.port)
    started = ThreadPoolExecutor(1).submit(serve.start, http_options=options)
    while not (started.done() or _has_controller()):
        time.sleep(0.01)
    if started.done():
        started.result()  # Raises what kept it from starting.
    try:
        serve.run(app, name=APP_NAME)
    except RuntimeError as error:
        raise _deploy_error(error, bundle) from None
    started.result()
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    _wait_ready(url)
    return url


def run_service(
    bundle: Location,
    config: ServeConfig,
    *,
    on_ready: Callable[[str, str | None], None],
    notify: Callable[[str], None],
) -> NoReturn:
    """Serves until SIGINT or SIGTERM, and ends every process that it started.

    Raises:
        StoppedError: After a signal.
        BundleError, ClusterError: See `start_service`; also, a port is in use.
        ConfigError: The API key is not valid.
    """
    load_key_digest()
    _check_ports(config)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        notify("stopping after the requests that are running; Ctrl-C again stops at once")
        raise KeyboardInterrupt

    try:
        with handle_signals(stop), ray_connection(f"serve {APP_NAME}") as dashboard:
            try:
                url = start_service(bundle, config)
                ray_address = ray.get_runtime_context().gcs_address
                with announce_service(config.port, ray_address):
                    on_ready(url, dashboard)
                    # An extension may have dropped the exception of an earlier signal.
                    if not received:
                        threading.Event().wait()
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                _shut_down_serve()
    except KeyboardInterrupt:
        pass
    raise StoppedError(f"stopped by {signal.Signals(received[0]).name}", received[0])


def _has_controller() -> bool:
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _shut_down_serve() -> None:
    """End Serve, and wait until its controller is gone.

    `serve.shutdown` alone waits in a call that ends with the controller's death, which Ray then
    prints as a failed task.
    """
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.remote(wait=False))
        end = time.monotonic() + _SHUTDOWN_TIMEOUT_S
        while time.monotonic() < end:
            if not _has_controller():
                return
            time.sleep(0.1)
    except (ValueError, RayActorError):
        return
    serve.shutdown()


def change_target(
    bundle: Location | None, config: ServeConfig, *, check: Callable[[str], None]
) -> ServingTarget:
    """Has the service in the Ray that RAY_ADDRESS names serve another bundle.

    Without a bundle it rolls back to the previous target. Returns what is served now.

    Args:
        check: Called with the location of the bundle that is served; raises to keep it.

    Raises:
        BundleError: It cannot be served; the previous target still is.
        ClusterError: No service runs there, or not all replicas switched, so that none did.
    """
    with ray_connection(f"serve {APP_NAME}: roll out"):
        try:
            service, running = serve.get_app_handle(APP_NAME).describe.remote().result()
        except RayServeException:
            ray_address = os.environ.get("RAY_ADDRESS")
            raise ClusterError(f"RAY_ADDRESS={ray_address}: no service runs there") from None
        served = current_target(service)
        if served is None:
            raise ClusterError("the service does not say what it serves yet; try again in a moment")
        if bundle is not None:
            check(served.primary)
        target = served.previous if bundle is None else build_target(bundle, config)
        if target is None:
            raise ClusterError("nothing to roll back to: no other bundle was rolled out")
        return roll_out(service, target, config=running, replicas=_count_replicas)


def _count_replicas() -> int:
    states = serve.status().applications[APP_NAME].deployments[APP_NAME].replica_states
    return int(states.get("RUNNING", 1))


def _check_ports(config: ServeConfig) -> None:
    """Raises ClusterError for a port in use, which Ray would try to bind for minutes."""
    if os.environ.get("RAY_ADDRESS"):
        return
    needed = [(config.host, config.port, f"serve.port={config.port}; choose another")]
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        for name, default in HAPROXY_PORTS.items():
            port = int(os.environ.get(name, default))
            needed.append(("", port, f"set {name} to a free port"))
    for host, port, remedy in needed:
        reason = port_problem(host, port)
        if reason is not None:
            raise ClusterError(f"{host or 'port'}:{port}: {reason}; {remedy}")


def _check_resources(config: ServeConfig) -> None:
    """Raises ClusterError where the replicas do not fit, for which Serve would wait forever."""
    fitting = worker_capacity(Resources(config.cpus, config.gpus), cluster_nodes())
    if config.least_replicas > fitting:
        total = ray.cluster_resources()
        raise ClusterError(
            f"serve.replicas={config.least_replicas}: each needs serve.cpus={config.cpus} and "
            f"serve.gpus={config.gpus:g}; the cluster has {total.get('CPU', 0):g} CPUs and "
            f"{total.get('GPU', 0):g} GPUs, enough for {fitting}"
        )


def _deploy_error(error: RuntimeError, bundle: Location) -> BundleError | ClusterError:
    """The error of a replica's constructor, which Serve reports as text."""
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
