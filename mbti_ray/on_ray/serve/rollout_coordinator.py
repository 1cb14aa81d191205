"""The board of a service: an actor that knows what is to be served, and what each replica says.

Belongs to no replica and outlives each of them. Imports nothing heavy: it is a process of its own.
"""

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from mbti_ray.serving.target import Wanted

_NAMESPACE = "mbti_ray"
# How long a replica waits for news before it asks again; a sign of life, too.
_WATCH_S = 5.0
# A replica that has not asked for so long is gone.
_GONE_S = 3 * _WATCH_S
# Longer than a replica takes to come back: the only one may have been lost.
_ALONE_S = 600.0


@dataclass(frozen=True)
class Report:
    """What a replica serves.

    Attributes:
        number: Of what it was last told to serve.
        trouble: Why it does not; None when it does.
    """

    number: int
    trouble: str | None = None


class Board:
    """What a service is to serve, and what its replicas say of it; an actor."""

    def __init__(self) -> None:
        self._wanted: Wanted | None = None
        self._changed = asyncio.Condition()
        self._reports: dict[str, tuple[float, Report]] = {}
        self._last_asked = time.monotonic()
        self._leaves: asyncio.Task[None] | None = None

    async def watch(self, replica: str, served: Wanted, report: Report) -> Wanted:
        """What is wanted: at once where that is news for the replica, else after a while.

        A board that was lost and made again learns from the replicas what was on it.
        """
        self._last_asked = time.monotonic()
        self._leaves = self._leaves or asyncio.create_task(self._leave_when_alone())
        self._reports[replica] = (time.monotonic(), report)
        if self._wanted is None or served.number > self._wanted.number:
            self._wanted = served
        with suppress(TimeoutError):
            async with self._changed, asyncio.timeout(_WATCH_S):
                while self._wanted.number == report.number:
                    await self._changed.wait()
        self._reports[replica] = (time.monotonic(), report)
        return self._wanted

    async def offer(self, wanted: Wanted) -> Wanted:
        """Have something else served; numbered, and with what was served before."""
        before = replace(self._wanted, before=None) if self._wanted else None
        number = self._wanted.number + 1 if self._wanted else 1
        async with self._changed:
            self._wanted = replace(wanted, number=number, before=before)
            self._changed.notify_all()
        return self._wanted

    async def wanted(self) -> Wanted | None:
        return self._wanted

    async def _leave_when_alone(self) -> None:
        """End the process once nobody has asked for long: the service is gone."""
        while time.monotonic() < self._last_asked + _ALONE_S:
            await asyncio.sleep(_WATCH_S)
        os._exit(0)

    async def reports(self) -> dict[str, Report]:
        """Of the replicas that live."""
        alive = time.monotonic() - _GONE_S
        return {name: report for name, (seen, report) in self._reports.items() if seen > alive}


def wanted_now(service: str) -> Wanted | None:
    """What the board of a service says, if it says anything: where a late replica begins."""
    try:
        board = ray.get_actor(_board_name(service), namespace=_NAMESPACE)
        found: Wanted | None = ray.get(board.wanted.remote())
    except (ValueError, RayError):
        return None
    return found


def make_board(service: str) -> Any:
    """The board of a service, made where it is missing; it outlives whoever made it."""
    options = {"namespace": _NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
    return ray.remote(Board).options(name=_board_name(service), num_cpus=0, **options).remote()


def _board_name(service: str) -> str:
    return f"mbti-board-{service}"
