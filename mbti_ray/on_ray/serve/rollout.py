"""Rolling out another bundle to a running service: without downtime, on all replicas or on none.

The rollout coordinator, an actor, holds the target, and every replica polls it. A replica loads and
checks the new target while it serves the old one, switches, and reports its status. If one fails,
the previous target is published again. Serve's own ways were no use: a new deployment stops
replicas before it starts others, and a new `user_config` takes replicas out of the proxy while they
apply it.
"""

import logging
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError

from mbti_ray.errors import ClusterError, MbtiRayError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import RuntimeKind
from mbti_ray.on_ray.serve.rollout_coordinator import (
    ReplicaStatus,
    current_target,
    get_or_create_coordinator,
)
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.serving.router import Router
from mbti_ray.serving.target import ServingTarget

logger = logging.getLogger("ray.serve")

_ROLLOUT_TIMEOUT_S = 300.0


def start_rollout_thread(service: str, replica: str, router: Router) -> threading.Thread:
    """Starts the thread that switches a replica's router to each new target of its service."""

    def follow() -> None:
        status = ReplicaStatus(router.target.version)
        coordinator = None
        while True:
            try:
                coordinator = coordinator or get_or_create_coordinator(service)
                target = ray.get(coordinator.poll.remote(replica, router.target, status))
            except RayError:
                # Its machine is gone: the next coordinator learns the target from the replicas.
                coordinator = None
                time.sleep(0.5)
                continue
            if target.version != status.version:
                status = _switch(router, target)

    thread = threading.Thread(target=follow, name="rollout", daemon=True)
    thread.start()
    return thread


def _switch(router: Router, target: ServingTarget) -> ReplicaStatus:
    try:
        router.switch_to(target)
    except Exception as error:
        name = type(error).__name__
        logger.error("still serving %s: %s", router.target.describe(), name)
        reason = str(error) if isinstance(error, MbtiRayError) else repr(error)
        return ReplicaStatus(target.version, reason)
    logger.warning("now serving %s", target.describe())
    return ReplicaStatus(target.version)


def roll_out(
    service: str, target: ServingTarget, *, runtime: RuntimeKind, replicas: int
) -> ServingTarget:
    """Has every replica (at least `replicas` of them) switch to another target; returns it.

    Raises:
        BundleError: A bundle cannot be served; the previous target still is.
        ClusterError: Not all replicas switched in time; the previous target is published again.
    """
    coordinator = get_or_create_coordinator(service)
    # Checked here first, so that replicas are not asked to load what cannot work.
    for location in target.locations:
        Predictor.load(fetch_bundle(location), runtime=runtime)
    published: ServingTarget = ray.get(coordinator.publish.remote(target))
    error = _wait_for_replicas(coordinator, published.version, replicas)
    if error and published.previous:
        ray.get(coordinator.publish.remote(published.previous))
    if error:
        raise ClusterError(f"{error}; the previous bundle is served again")
    return published


def roll_back(service: str, *, runtime: RuntimeKind, replicas: int) -> ServingTarget:
    """As `roll_out`, of the previous target; ClusterError if there is none."""
    target = current_target(service)
    if target is None or target.previous is None:
        raise ClusterError("nothing to roll back to: no other bundle was rolled out")
    return roll_out(service, target.previous, runtime=runtime, replicas=replicas)


def _wait_for_replicas(coordinator: Any, version: int, replicas: int) -> str | None:
    """Waits until all replicas have switched to a version; returns why they did not, else None."""
    end = time.monotonic() + _ROLLOUT_TIMEOUT_S
    while time.monotonic() < end:
        known: dict[str, ReplicaStatus] = ray.get(coordinator.statuses.remote())
        switched = [status for status in known.values() if status.version == version]
        error = next((status.error for status in switched if status.error), None)
        if error:
            return error
        if len(switched) == len(known) >= replicas:
            return None
        time.sleep(0.1)
    return f"{len(switched)} of {len(known)} replicas switched within {_ROLLOUT_TIMEOUT_S:g} s"
