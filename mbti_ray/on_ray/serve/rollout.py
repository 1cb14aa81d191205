"""Rolling out another bundle to a running service: without downtime, on all replicas or on none.

The rollout coordinator, an actor, holds the target, and every replica polls it. A replica loads and
checks the new target while it serves the old one, switches, and reports its status. If one fails,
the previous target is published again. Serve's own ways were no use: a new deployment stops
replicas before it starts others, and a new `user_config` takes replicas out of the proxy while they
apply it.
"""

import time
from collections.abc import Callable
from typing import Any

import ray

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import ClusterError
from mbti_ray.on_ray.serve.rollout_coordinator import ReplicaStatus, get_or_create_coordinator
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.serving.target import ServingTarget

_ROLLOUT_TIMEOUT_S = 300.0


def roll_out(
    service: str, target: ServingTarget, *, config: ServeConfig, replicas: Callable[[], int]
) -> ServingTarget:
    """Has every replica switch to another target; returns it.

    Args:
        replicas: How many run, which changes while a service scales.

    Raises:
        BundleError: A bundle cannot be served; the previous target still is.
        ClusterError: Not all replicas switched in time, and the previous target is published again;
            or another one was rolled out meanwhile.
    """
    from mbti_ray.inference.predictor import Predictor

    coordinator = get_or_create_coordinator(service)
    # Checked here first, so that replicas are not asked to load what cannot work.
    for location in target.locations:
        Predictor.load(fetch_bundle(location), runtime=config.runtime)
    before: ServingTarget | None = ray.get(coordinator.target.remote())
    published: ServingTarget = ray.get(coordinator.publish.remote(target))
    error = _wait_for_replicas(coordinator, published.version, replicas)
    if error is None:
        return published
    if before and ray.get(coordinator.withdraw.remote(published.version, before)):
        raise ClusterError(f"{error}; the previous bundle is served again")
    raise ClusterError(f"{error}; another bundle was rolled out meanwhile")


def _wait_for_replicas(coordinator: Any, version: int, replicas: Callable[[], int]) -> str | None:
    """Waits until all replicas have switched to a version; returns why they did not, else None."""
    end = time.monotonic() + _ROLLOUT_TIMEOUT_S
    while time.monotonic() < end:
        known: dict[str, ReplicaStatus] = ray.get(coordinator.statuses.remote())
        if any(status.version > version for status in known.values()):
            return "not all replicas switched"
        switched = [status for status in known.values() if status.version == version]
        error = next((status.error for status in switched if status.error), None)
        if error:
            return error
        if len(switched) == len(known) >= replicas():
            return None
        time.sleep(0.1)
    return f"{len(switched)} of {len(known)} replicas switched within {_ROLLOUT_TIMEOUT_S:g} s"
