"""Continuous batching: each forward pass takes the oldest window that waits and those nearest to it
in length.

So no window waits forever, short texts do not pay for long ones, and a response leaves as soon as
its own windows are computed. The passes grow with the queue; nothing waits for a fuller batch while
the model is idle. Where several passes run at once, each with its share of the threads, one runs
while the answers of another are written. Source of the idea: token-budget batching as in
text-embeddings-inference and continuous batching (Yu et al. 2022, Orca), for windows that need a
single pass.

Belongs to one event loop; `forward` runs in the given executors. Must not know texts, HTTP or Ray.

Legend: B windows of a pass, N windows of a request, W outputs of each.
"""

import asyncio
import math
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from mbti_ray.data.windows import TokenIds

# By how many passes run at once: the threads for one of them.
Executors = Mapping[int, Executor]

# A larger share of padding costs more than another pass.
_MAX_PADDING = 0.1
# Weight of the newest pass in the moving average of the speed.
_SMOOTHING = 0.2


@dataclass(frozen=True)
class ForwardPass:
    """Statistics of one forward pass: its windows, real and padded tokens, seconds."""

    windows: int
    tokens: int
    padded_tokens: int
    seconds: float


@dataclass(eq=False)
class WindowOutputs:
    """Outputs [N, W] of a request, and when its first pass started and its last one finished.

    Times are those of `time.perf_counter`.
    """

    values: Tensor
    remaining: int
    done: asyncio.Future[None]
    started: float = math.inf
    finished: float = math.inf


@dataclass(order=True, frozen=True)
class _QueuedWindow:
    """One window in the queue, ordered by length and then by age."""

    length: int
    number: int
    request: WindowOutputs = field(compare=False)
    index: int = field(compare=False)
    ids: TokenIds = field(compare=False)


class Batcher:
    """The queue in front of a model."""

    def __init__(
        self,
        forward: Callable[[Sequence[TokenIds]], Tensor],
        executors: Executors,
        *,
        output_size: int = 4,
        pads: bool = True,
        batch_tokens: int,
        min_efficient_tokens: int,
        tokens_per_s: float,
        on_forward: Callable[[ForwardPass], None] = lambda _: None,
    ) -> None:
        """
        Args:
            forward: Outputs [B, W] of B windows.
            executors: For a pass alone, and for the most that run at once: another starts beside a
                running one once it is full enough.
            output_size: W.
            pads: Whether a pass computes all windows as long as its longest.
            batch_tokens: Maximum padded tokens of a pass; a single window may be longer.
            min_efficient_tokens: Up to this many tokens a pass takes windows of any length, and
                with fewer none starts beside another.
            tokens_per_s: The estimated speed before the first pass.
        """
        self._forward = forward
        self._executors = executors
        self._passes_at_once = max(executors)
        self._output_size = output_size
        self._pads = pads
        self._batch_tokens = batch_tokens
        self._min_efficient_tokens = min_efficient_tokens
        self._tokens_per_s = tokens_per_s
        self._on_forward = on_forward
        self._by_length: list[_QueuedWindow] = []
        self._by_age: deque[_QueuedWindow] = deque()
        self._queued_tokens = 0
        self._running: list[int] = []  # tokens of each pass
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def wait_s(self) -> float:
        """Estimated seconds that a window submitted now would wait."""
        return self._queued_tokens / self._tokens_per_s

    async def compute(self, windows: Sequence[TokenIds]) -> WindowOutputs:
        """The outputs of N windows; if the caller is cancelled, its windows leave the queue."""
        done = asyncio.get_running_loop().create_future()
        request = WindowOutputs(torch.empty(len(windows), self._output_size), len(windows), done)
        for index, ids in enumerate(windows):
            window = _QueuedWindow(len(ids), next(self._numbers), request, index, ids)
            insort(self._by_length, window)
            self._by_age.append(window)
            self._queued_tokens += window.length
        while not self._tasks or (
            len(self._tasks) < self._passes_at_once
            and self._queued_tokens >= self._min_efficient_tokens
        ):
            self._tasks.add(asyncio.create_task(self._run()))
        try:
            await done
            return request
        except asyncio.CancelledError:
            self._remove(request)
            raise

    def _may_start(self) -> bool:
        return not self._running or self._queued_tokens >= self._min_efficient_tokens

    async def _run(self) -> None:
        """Runs one pass after the other until too little waits."""
        try:
            while self._may_start() and (batch := self._next_batch()):
                tokens = sum(window.length for window in batch)
                self._running.append(tokens)
                try:
                    await self._run_pass(batch)
                finally:
                    self._running.remove(tokens)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)

    async def _run_pass(self, batch: Sequence[_QueuedWindow]) -> None:
        is_alone = len(self._running) == 1 and self._queued_tokens < self._min_efficient_tokens
        passes = 1 if is_alone else self._passes_at_once
        ids = [window.ids for window in batch]
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            outputs = await loop.run_in_executor(self._executors[passes], self._forward, ids)
            finished = time.perf_counter()
            _deliver(batch, outputs, started, finished)
        except Exception as error:
            for request in {w.request for w in batch}:
                self._remove(request)
                if not request.done.done():
                    request.done.set_exception(error)
        else:
            self._record_pass(batch, finished - started, passes)

    def _next_batch(self) -> list[_QueuedWindow]:
        """Takes the oldest window out of the queue, and the windows to compute with it."""
        while self._by_age:
            oldest = self._by_age.popleft()
            low = bisect_left(self._by_length, oldest)
            if low < len(self._by_length) and self._by_length[low] is oldest:
                break
        else:
            return []
        low, high = self._grow_batch(low)
        batch = self._by_length[low:high]
        del self._by_length[low:high]
        self._queued_tokens -= sum(w.length for w in batch)
        return batch

    def _grow_batch(self, start: int) -> tuple[int, int]:
        """The bounds in `_by_length` of the batch around the window at index `start`."""
        queue = self._by_length
        low, high, tokens = start, start + 1, queue[start].length
        # What is left is for the other passes.
        in_progress = self._queued_tokens + sum(self._running)
        enough = max(self._min_efficient_tokens, in_progress // self._passes_at_once)
        while low > 0 or high < len(queue):
            shorter = queue[high - 1].length - queue[low - 1].length if low else math.inf
            longer = queue[high].length - queue[low].length if high < len(queue) else math.inf
            take_shorter = shorter <= longer
            longest = queue[high - 1].length if take_shorter else queue[high].length
            added = queue[low - 1].length if take_shorter else longest
            padded = longest * (high - low + 1) if self._pads else tokens + added
            if padded > self._batch_tokens or tokens >= enough:
                break
            is_efficient = tokens + added >= (1 - _MAX_PADDING) * padded
            if padded > self._min_efficient_tokens and not is_efficient:
                break
            tokens += added
            low, high = (low - 1, high) if take_shorter else (low, high + 1)
        return low, high

    def _remove(self, request: WindowOutputs) -> None:
        kept = [w for w in self._by_length if w.request is not request]
        if len(kept) < len(self._by_length):
            self._by_length = kept
            self._queued_tokens = sum(w.length for w in kept)
            self._by_age = deque(w for w in self._by_age if w.request is not request)

    def _record_pass(self, batch: Sequence[_QueuedWindow], seconds: float, passes: int) -> None:
        tokens = sum(w.length for w in batch)
        # A small pass says little about the speed at which a full queue is processed.
        weight = _SMOOTHING * min(1.0, tokens / self._batch_tokens)
        self._tokens_per_s += weight * (passes * tokens / max(seconds, 1e-6) - self._tokens_per_s)
        padded = max(w.length for w in batch) * len(batch) if self._pads else tokens
        self._on_forward(ForwardPass(len(batch), tokens, padded, seconds))


def _deliver(
    batch: Sequence[_QueuedWindow], outputs: Tensor, started: float, finished: float
) -> None:
    # By NumPy: to copy a row of a tensor takes ten times as long.
    for window, row in zip(batch, outputs.numpy(), strict=True):
        request = window.request
        request.values.numpy()[window.index] = row
        request.remaining -= 1
        request.started = min(request.started, started)
        request.finished = finished
        if not request.remaining and not request.done.done():
            request.done.set_result(None)
