"""A thread that works on texts, and an estimate of how long a new text would wait for it.

The work is Python, so more threads would only wait for the interpreter lock. Belongs to one event
loop. Must not know what the work is, the queue in front of the model, nor HTTP.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# The estimate before the first text: low for what one core does.
_INITIAL_CHARACTERS_PER_S = 1e6
# Weight of the newest call in the moving average of the speed.
_SMOOTHING = 0.1
# Shorter texts say little about the speed, and take less time than the way to a thread and back.
_MIN_CHARACTERS = 1000

T = TypeVar("T")


class TextQueue:
    """Runs work on texts one after the other, in a thread."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        # Two counts with a writer each, the event loop and the thread, need no lock.
        self._submitted = self._finished = 0
        self._characters_per_s = _INITIAL_CHARACTERS_PER_S

    @property
    def wait_s(self) -> float:
        """Estimated seconds that a text submitted now would wait."""
        return (self._submitted - self._finished) / self._characters_per_s

    async def run(self, work: Callable[[], T], users: Sequence[Sequence[str]]) -> T:
        """The result of `work` on the texts of `users`; on a short text of one, without the thread.

        If the caller is cancelled before the work starts, it leaves the queue. Work that has
        started counts as waiting until it is finished, because it occupies the thread.
        """
        characters = sum(map(len, {post for posts in users for post in posts}))
        if len(users) == 1 and characters < _MIN_CHARACTERS:
            return work()
        job = self._thread.submit(self._measure, work, characters)
        self._submitted += characters
        try:
            return await asyncio.wrap_future(job)
        finally:
            if job.cancel():
                self._submitted -= characters

    def _measure(self, work: Callable[[], T], characters: int) -> T:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self._finished += characters
            if characters >= _MIN_CHARACTERS:
                speed = characters / max(time.perf_counter() - start, 1e-6)
                self._characters_per_s += _SMOOTHING * (speed - self._characters_per_s)
