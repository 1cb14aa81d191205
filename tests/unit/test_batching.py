"""The queue in front of the model: the order of windows, and cancellation."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbti_ray.serving.batching import Batcher, ForwardPass, WindowOutputs

pytestmark = pytest.mark.unit


class Model:
    """Logits that identify their window; every pass is recorded, and may be blocked."""

    def __init__(self) -> None:
        self.passes: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, windows: Sequence[list[int]]) -> Tensor:
        self.entered.set()
        assert self.gate.wait(10)
        self.passes.append([list(w) for w in windows])
        return torch.tensor([[float(sum(w)), float(len(w)), 0.0, 1.0] for w in windows])


def batcher(model: Any, executor: ThreadPoolExecutor, **changes: Any) -> Batcher:
    settings: dict[str, Any] = {
        "batch_tokens": 64,
        "min_efficient_tokens": 16,
        "tokens_per_s": 1000.0,
    }
    return Batcher(model, {1: executor}, **settings | changes)


async def blocked_request(model: Model, queue: Batcher) -> "asyncio.Task[WindowOutputs]":
    """A request whose pass does not finish before the gate is opened."""
    model.gate.clear()
    task = asyncio.create_task(queue.compute([[7]]))
    await asyncio.to_thread(model.entered.wait, 10)
    return task


async def enqueue(
    queue: Batcher, requests: Sequence[Sequence[list[int]]]
) -> list["asyncio.Task[WindowOutputs]"]:
    tasks = [asyncio.create_task(queue.compute(windows)) for windows in requests]
    await asyncio.sleep(0)
    return tasks


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=40), min_size=1, max_size=4),
        min_size=1,
        max_size=12,
    )
)
def test_every_request_gets_its_own_logits_in_passes_within_the_budget(
    requests: list[list[list[int]]],
) -> None:
    model, passes = Model(), []

    async def main() -> list[WindowOutputs]:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(model, executor, on_forward=passes.append)
            return await asyncio.gather(*(queue.compute(windows) for windows in requests))

    for windows, output in zip(requests, asyncio.run(main()), strict=True):
        assert output.values[:, 0].tolist() == [float(sum(w)) for w in windows]
        assert output.values[:, 1].tolist() == [float(len(w)) for w in windows]
        assert output.started <= output.finished
    assert sum(p.windows for p in passes) == sum(map(len, requests))
    for one in passes:
        assert one.padded_tokens <= 64 or one.windows == 1
        assert one.padded_tokens <= 16 or one.tokens >= 0.9 * one.padded_tokens


def test_the_oldest_window_is_computed_first_with_those_nearest_in_length() -> None:
    model = Model()
    lengths = [20, 3, 21, 40, 19, 3]

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(model, executor)
            first = await blocked_request(model, queue)
            tasks = await enqueue(queue, [[[0] * n] for n in lengths])
            model.gate.set()
            await asyncio.gather(first, *tasks)

    asyncio.run(main())
    read = [sorted(len(w) for w in windows) for windows in model.passes]
    assert read == [[1], [19, 20, 21], [3, 3], [40]]


def test_two_passes_share_what_waits_and_a_second_starts_only_if_it_is_full_enough() -> None:
    shared: list[tuple[int, str]] = []
    both, gate = threading.Barrier(2), threading.Event()

    def model(windows: Sequence[list[int]]) -> Tensor:
        name = threading.current_thread().name.partition("_")[0]
        shared.append((len(windows), name))
        if name == "shared":
            both.wait(10)
        else:
            assert gate.wait(10)
        return torch.zeros(len(windows), 4)

    async def main() -> None:
        with ThreadPoolExecutor(1, "alone") as alone, ThreadPoolExecutor(2, "shared") as pair:
            queue = Batcher(
                model,
                {1: alone, 2: pair},
                batch_tokens=1000,
                min_efficient_tokens=16,
                tokens_per_s=1000.0,
            )
            # Two at once, of several requests or of one, or the barrier breaks.
            await asyncio.gather(*await enqueue(queue, [[[1, 2, 3, 4]]] * 16))
            await queue.compute([[1, 2, 3, 4]] * 16)
            first = await enqueue(queue, [[[1, 2, 3, 4]]])
            more = await enqueue(queue, [[[1, 2, 3, 4]]] * 3)
            gate.set()
            await asyncio.gather(*first, *more)

    asyncio.run(main())
    assert shared == [(8, "shared")] * 4 + [(1, "alone"), (3, "alone")]


def test_a_cancelled_request_leaves_the_queue_and_is_not_computed() -> None:
    model = Model()

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(model, executor)
            first = await blocked_request(model, queue)
            gone, stays = await enqueue(queue, [[[5] * 30, [5] * 30], [[6] * 8]])
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            assert queue.wait_s == pytest.approx(8 / 1000)
            model.gate.set()
            await asyncio.gather(first, stays)

    asyncio.run(main())
    assert model.passes == [[[7]], [[6] * 8]]


def test_a_failed_pass_fails_its_own_requests_and_later_ones_are_computed() -> None:
    def model(windows: Sequence[list[int]]) -> Tensor:
        if windows[0] == [13]:
            raise RuntimeError("out of memory")
        return torch.zeros(len(windows), 4)

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(model, executor)
            with pytest.raises(RuntimeError, match="out of memory"):
                await queue.compute([[13]])
            assert (await queue.compute([[1]])).values.shape == (1, 4)

    asyncio.run(main())


def test_the_other_windows_of_a_failed_request_are_not_computed() -> None:
    model = Model()

    def fail_once(windows: Sequence[list[int]]) -> Tensor:
        logits = model(windows)
        if len(model.passes) == 1:
            raise RuntimeError("out of memory")
        return logits

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(fail_once, executor)
            # Two passes each: together they are longer than a pass may be.
            failed, computed = await enqueue(queue, [[[1] * 40, [2] * 40], [[3] * 40]])
            with pytest.raises(RuntimeError, match="out of memory"):
                await failed
            await computed
            assert queue.wait_s == 0

    asyncio.run(main())
    assert model.passes == [[[1] * 40], [[3] * 40]]


def test_a_model_that_returns_too_few_rows_fails_its_requests_and_not_the_queue() -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(lambda windows: torch.zeros(len(windows) - 1, 4), executor)
            for _ in range(2):
                with pytest.raises(ValueError, match="shorter"):
                    await asyncio.wait_for(queue.compute([[1], [2]]), 10)

    asyncio.run(main())


def test_every_pass_is_reported_with_its_padding() -> None:
    reported: list[ForwardPass] = []

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            queue = batcher(Model(), executor, on_forward=reported.append)
            await queue.compute([[0] * 3, [0] * 5])

    asyncio.run(main())
    (one,) = reported
    assert (one.windows, one.tokens, one.padded_tokens) == (2, 8, 10)
    assert one.seconds > 0
