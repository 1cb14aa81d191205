"""The thread that turns texts into windows, and an estimate of how long a new text would wait.

Cleaning and masking are pure Python, so more threads would only wait for the interpreter lock.
Belongs to one event loop. Must not know the queue in front of the model, nor HTTP.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mbti_ray.data.windows import EncodedRow
from mbti_ray.inference.predictor import Predictor

# The estimate before the first text: low for what one core does.
_INITIAL_CHARACTERS_PER_S = 1e6
# Weight of the newest call in the moving average of the speed.
_SMOOTHING = 0.1
# Shorter inputs say little about the speed: overhead dominates.
_MIN_MEASURED_CHARACTERS = 1000


class TokenizerQueue:
    """Tokenizes requests one after the other, in a thread."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._thread = ThreadPoolExecutor(1, "tokenize")
        self._waiting_characters = 0
        self._characters_per_s = _INITIAL_CHARACTERS_PER_S

    @property
    def wait_s(self) -> float:
        """Estimated seconds that a text submitted now would wait."""
        return self._waiting_characters / self._characters_per_s

    async def encode(self, users: Sequence[Sequence[str]], *, whole: bool) -> list[EncodedRow]:
        """`Predictor.encode` in the thread; a cancelled caller leaves the queue."""
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
        if characters >= _MIN_MEASURED_CHARACTERS:
            speed = characters / max(seconds, 1e-6)
            self._characters_per_s += _SMOOTHING * (speed - self._characters_per_s)
        return packed
