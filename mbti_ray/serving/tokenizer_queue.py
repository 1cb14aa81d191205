"""The thread that turns texts into windows, and how long a text that came now would wait for it.

Cleaning and masking are Python's: more threads would only wait for the interpreter. Belongs to one
event loop; knows nothing of queues for the model or of HTTP.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mbti_ray.data.windows import EncodedRow
from mbti_ray.inference.predictor import Predictor

# Before the first text: on the slow side of what a core does.
_CHARACTERS_PER_S = 1e6
# The share of the newest job in the estimate of the speed.
_NEWEST = 0.1
# A smaller job says little: starting it takes as long.
_TELLING_CHARACTERS = 1000


class Tokenising:
    """The line of those who wait for the thread."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(1, "tokenise")
        self._waiting_characters = 0
        self._characters_per_s = _CHARACTERS_PER_S

    @property
    def wait_s(self) -> float:
        """How long a text that came now would wait, as far as can be told."""
        return self._waiting_characters / self._characters_per_s

    async def encode(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """See `Predictor.encode`; whoever stops waiting gives their place up."""
        characters = sum(len(post) for posts in users for post in posts)

        def work() -> tuple[list[EncodedRow], float]:
            start = time.perf_counter()
            return self._predictor.encode(users, whole=whole), time.perf_counter() - start

        self._waiting_characters += characters
        try:
            loop = asyncio.get_running_loop()
            packed, seconds = await loop.run_in_executor(self._thread, work)
        finally:
            self._waiting_characters -= characters
        if characters >= _TELLING_CHARACTERS:
            speed = characters / max(seconds, 1e-6)
            self._characters_per_s += _NEWEST * (speed - self._characters_per_s)
        return packed
