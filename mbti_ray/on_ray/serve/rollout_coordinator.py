"""The rollout coordinator of a service: an actor with the current target and each replica's status.

Belongs to no replica and outlives each of them. It is a process of its own, so it must import
nothing heavy.
"""

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from mbti_ray.serving.target import ServingTarget

_NAMESPACE = "mbti_ray"
# How long a poll waits for a new target; polls also serve as heartbeats.
_POLL_TIMEOUT_S = 5.0
# A replica that has not polled for so long is lost.
_REPLICA_LOST_AFTER_S = 3 * _POLL_TIMEOUT_S
# Longer than a replica takes to be restarted: the only one may have been lost.
_IDLE_EXIT_AFTER_S = 600.0


@dataclass(frozen=True)
class ReplicaStatus:
    """The version of the target that a replica last switched to, or why it failed to."""

    version: int
    error: str | None = None


class RolloutCoordinator:
    """The target of a service and the status of its replicas; an actor."""

    def __init__(self) -> None:
        self._target: ServingTarget | None = None
        self._changed = asyncio.Condition()
        self._replicas: dict[str, tuple[float, ReplicaStatus]] = {}
        self._last_poll = time.monotonic()
        self._idle_exit: asyncio.Task[None] | None = None

    async def poll(
        self, replica: str, served: ServingTarget, status: ReplicaStatus
    ) -> ServingTarget:
        """The current target: at once if it is new to the replica, else after a while.

        A coordinator that was lost and recreated learns the target from the replicas.
        """
        self._last_poll = time.monotonic()
        self._idle_exit = self._idle_exit or asyncio.create_task(self._exit_when_idle())
        self._replicas[replica] = (time.monotonic(), status)
        if self._target is None or served.version > self._target.version:
            self._target = served
        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(_POLL_TIMEOUT_S):
                while self._target.version == status.version:
                    await self._changed.wait()
        self._replicas[replica] = (time.monotonic(), status)
        return self._target

    async def publish(self, target: ServingTarget) -> ServingTarget:
        """Sets a new target; returns it with its version and the previous target."""
        previous = replace(self._target, previous=None) if self._target else None
        version = self._target.version + 1 if self._target else 1
        async with self._changed:
            self._target = replace(target, version=version, previous=previous)
            self._changed.notify_all()
        return self._target

    async def withdraw(self, version: int, before: ServingTarget) -> bool:
        """Has what was served before a version be served again, with its own previous target.

        Not where another target has followed; returns whether it does.
        """
        if self._target is None or self._target.version != version:
            return False
        async with self._changed:
            self._target = replace(before, version=version + 1)
            self._changed.notify_all()
        return True

    async def target(self) -> ServingTarget | None:
        return self._target

    async def statuses(self) -> dict[str, ReplicaStatus]:
        """The status of each live replica."""
        alive = time.monotonic() - _REPLICA_LOST_AFTER_S
        return {name: status for name, (seen, status) in self._replicas.items() if seen > alive}

    async def _exit_when_idle(self) -> None:
        """Ends the process once no replica has polled for long: the service is gone."""
        while time.monotonic() < self._last_poll + _IDLE_EXIT_AFTER_S:
            await asyncio.sleep(_POLL_TIMEOUT_S)
        os._exit(0)


def current_target(service: str) -> ServingTarget | None:
    """The target of a service, if its coordinator has one: a restarted replica begins with it."""
    try:
        coordinator = ray.get_actor(_actor_name(service), namespace=_NAMESPACE)
        target: ServingTarget | None = ray.get(coordinator.target.remote())
    except (ValueError, RayError):
        return None
    return target


def get_or_create_coordinator(service: str) -> Any:
    """The coordinator of a service; detached, so it outlives the process that created it."""
    actor = ray.remote(RolloutCoordinator).options(
        name=_actor_name(service),
        namespace=_NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
    )
    return actor.remote()


def _actor_name(service: str) -> str:
    return f"mbti-rollout-{service}"
