"""Which windows a forward pass reads next: the oldest that waits, and those nearest to its length.

So no window waits for ever, short texts do not pay for long ones, and an answer leaves as soon as
its own windows are read. A pass is as large as what waits allows; nothing waits for company while
the model is idle. Source of the idea: token-budget batching as in text-embeddings-inference and
continuous batching (Yu et al. 2022, Orca), for windows read once.

Belongs to one event loop; `forward` runs in the executor that is given. Knows nothing of texts,
HTTP or Ray.

Legend: B windows of a pass, N windows of a job.
"""

import asyncio
import math
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from mbti_ray.data.windows import TokenIds

# More padding than this costs more than what another pass costs.
_PADDING = 0.1
# The share of the newest pass in the estimate of the speed.
_NEWEST = 0.2


class QueueFullError(Exception):
    """The windows would wait too long.

    Attributes:
        wait_s: How long, as far as can be told.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"would wait {wait_s:.1f} s")
        self.wait_s = wait_s


@dataclass(frozen=True)
class Pass:
    """One forward pass, for those who count: its windows, real and padded tokens, seconds."""

    windows: int
    tokens: int
    padded_tokens: int
    seconds: float


@dataclass(frozen=True)
class Done:
    """Logits [N, 4] of a job, and when its first pass began and its last one ended.

    Times are those of `time.perf_counter`.
    """

    logits: Tensor
    began: float
    ended: float


@dataclass
class _Job:
    answer: asyncio.Future[Done]
    logits: Tensor
    left: int
    began: float = math.inf


@dataclass(order=True, frozen=True)
class _Waiting:
    """One window in the queue, ordered by its length and then by its age."""

    length: int
    number: int
    job: _Job = field(compare=False)
    place: int = field(compare=False)
    ids: TokenIds = field(compare=False)


class Batcher:
    """The queue in front of a model."""

    def __init__(
        self,
        forward: Callable[[Sequence[TokenIds]], Tensor],
        executor: Executor,
        *,
        batch_tokens: int,
        min_efficient_tokens: int,
        max_wait_s: float,
        tokens_per_s: float,
        observe: Callable[[Pass], None] = lambda _: None,
    ) -> None:
        """
        Args:
            forward: Logits [B, 4] of B windows, read in one pass.
            batch_tokens: Padded tokens of a pass at the most; one window may be longer.
            min_efficient_tokens: Up to so many tokens a pass takes windows of any length.
            max_wait_s: Windows that would wait longer are refused.
            tokens_per_s: The speed to expect before the first pass.
        """
        self._forward = forward
        self._executor = executor
        self._batch_tokens = batch_tokens
        self._min_efficient_tokens = min_efficient_tokens
        self._max_wait_s = max_wait_s
        self._tokens_per_s = tokens_per_s
        self._observe = observe
        self._by_length: list[_Waiting] = []
        self._by_age: deque[_Waiting] = deque()
        self._waiting_tokens = 0
        self._numbers = count()
        self._runs: asyncio.Task[None] | None = None

    @property
    def wait_s(self) -> float:
        """How long a window that came now would wait, as far as can be told."""
        return self._waiting_tokens / self._tokens_per_s

    async def read(self, windows: Sequence[TokenIds]) -> Done:
        """The logits of N windows; whoever stops waiting gives their place up.

        Raises:
            QueueFullError: They would wait too long.
        """
        if self.wait_s > self._max_wait_s:
            raise QueueFullError(self.wait_s)
        answer = asyncio.get_running_loop().create_future()
        job = _Job(answer, torch.empty(len(windows), 4), len(windows))
        for place, ids in enumerate(windows):
            waiting = _Waiting(len(ids), next(self._numbers), job, place, ids)
            insort(self._by_length, waiting)
            self._by_age.append(waiting)
            self._waiting_tokens += waiting.length
        if self._runs is None:
            self._runs = asyncio.create_task(self._run())
        try:
            done: Done = await answer
            return done
        except asyncio.CancelledError:
            self._drop(job)
            raise

    async def _run(self) -> None:
        """Reads until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next_batch():
                began = time.perf_counter()
                try:
                    logits = await loop.run_in_executor(
                        self._executor, self._forward, [w.ids for w in batch]
                    )
                except Exception as error:
                    _fail(batch, error)
                    continue
                ended = time.perf_counter()
                self._count(batch, ended - began)
                _deliver(batch, logits, began, ended)
        finally:
            self._runs = None

    def _next_batch(self) -> list[_Waiting]:
        """Takes the oldest window that waits out of the queue, and what is to be read with it."""
        while self._by_age:
            oldest = self._by_age.popleft()
            low = bisect_left(self._by_length, oldest)
            if low < len(self._by_length) and self._by_length[low] is oldest:
                break
        else:
            return []
        low, high = self._with_company(low)
        batch = self._by_length[low:high]
        del self._by_length[low:high]
        self._waiting_tokens -= sum(w.length for w in batch)
        return batch

    def _with_company(self, place: int) -> tuple[int, int]:
        """The bounds in `_by_length` of the batch around the window at a place."""
        queue = self._by_length
        low, high, tokens = place, place + 1, queue[place].length
        while low > 0 or high < len(queue):
            shorter = queue[high - 1].length - queue[low - 1].length if low else math.inf
            longer = queue[high].length - queue[low].length if high < len(queue) else math.inf
            take_shorter = shorter <= longer
            longest = queue[high - 1].length if take_shorter else queue[high].length
            added = queue[low - 1].length if take_shorter else longest
            padded = longest * (high - low + 1)
            if padded > self._batch_tokens:
                break
            if padded > self._min_efficient_tokens and tokens + added < (1 - _PADDING) * padded:
                break
            tokens += added
            low, high = (low - 1, high) if take_shorter else (low, high + 1)
        return low, high

    def _drop(self, job: _Job) -> None:
        kept = [w for w in self._by_length if w.job is not job]
        if len(kept) < len(self._by_length):
            self._by_length = kept
            self._waiting_tokens = sum(w.length for w in kept)
            self._by_age = deque(w for w in self._by_age if w.job is not job)

    def _count(self, batch: Sequence[_Waiting], seconds: float) -> None:
        tokens = sum(w.length for w in batch)
        # A small pass says little of the speed that a full queue is read with.
        share = _NEWEST * min(1.0, tokens / self._batch_tokens)
        self._tokens_per_s += share * (tokens / max(seconds, 1e-6) - self._tokens_per_s)
        longest = max(w.length for w in batch)
        self._observe(Pass(len(batch), tokens, longest * len(batch), seconds))


def _deliver(batch: Sequence[_Waiting], logits: Tensor, began: float, ended: float) -> None:
    for waiting, row in zip(batch, logits, strict=True):
        job = waiting.job
        job.logits[waiting.place] = row
        job.left -= 1
        job.began = min(job.began, began)
        if not job.left and not job.answer.done():
            job.answer.set_result(Done(job.logits, job.began, ended))


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.job.answer.done():
            waiting.job.answer.set_exception(error)
