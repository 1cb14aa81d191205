"""A bundle behind its queues: the predictor's results, the cache, threads."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import pytest
import torch

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.batching import ForwardPass
from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest, TextsRequest, UserRequest
from mbti_ray.serving.served_model import (
    PredictResult,
    ServeCallback,
    ServedModel,
    forward_executors,
    warm_up,
)

pytestmark = pytest.mark.integration

LONG = "a long evening with many words " * 20


class Counts(ServeCallback):
    """Counts windows and results."""

    def __init__(self) -> None:
        self.windows = 0
        self.results: list[str] = []

    def on_forward(self, done: ForwardPass) -> None:
        self.windows += done.windows

    def on_result(self, result: PredictResult, bundle_id: str) -> None:
        self.results.append(bundle_id)


def texts(*given: str, **options: Any) -> TextsRequest:
    return TextsRequest(inputs=list(given), **options)


def user(*posts: str, **options: Any) -> UserRequest:
    return UserRequest(posts=list(posts), **options)


def predict(model: ServedModel, *requests: PredictRequest) -> list[PredictResult]:
    async def main() -> list[PredictResult]:
        return await asyncio.gather(*(model.predict(request) for request in requests))

    return asyncio.run(main())


def test_results_are_the_predictors_for_texts_and_for_users_in_windows(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e6)
    inputs, posts = ["a", LONG, "a quiet book"], [LONG, "a party", LONG]
    one_by_one, whole = predict(model, texts(*inputs), user(*posts))
    expected = predictor.predict([[text] for text in inputs], whole=False)
    expected += predictor.predict([posts], whole=True)
    for found, right in zip([*one_by_one.predictions, *whole.predictions], expected, strict=True):
        assert found.type == right.type
        assert (found.truncated, found.windows) == (right.truncated, right.windows)
        assert found.probabilities == pytest.approx(right.probabilities, abs=1e-6)
    assert whole.predictions[0].windows > 1
    assert whole.timing.forward > 0


def test_a_cached_text_is_not_computed_again(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    config = ServeConfig(cache=2)
    model = ServedModel(predictor, {1: executor}, config, tokens_per_s=1e6, callback=counts)

    def windows_of(request: PredictRequest) -> int:
        counts.windows = 0
        predict(model, request)
        return counts.windows

    first = predict(model, texts("a", "b"))[0].predictions
    assert windows_of(texts("b", "a")) == 0
    assert predict(model, texts("a"))[0].predictions == first[:1]
    # Read as a user it has another key, which evicts the oldest of the two.
    assert windows_of(user("a")) == 1
    assert windows_of(texts("a")) == 0
    assert windows_of(texts("b")) == 1


def test_posts_and_one_text_that_looks_like_them_have_an_entry_each(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, {1: executor}, ServeConfig(cache=9), tokens_per_s=1e6)
    two, one = ("a party", "a book"), ("a party\0a book",)
    found = [predict(model, user(*posts))[0].predictions[0].tokens for posts in (two, one)]
    assert found == [p.tokens for p in predictor.predict([two, one], whole=True)]


def test_a_text_too_long_is_refused_if_it_must_not_be_truncated(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    model = ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e6, callback=counts)
    with pytest.raises(APIError, match="exceeds the limit of 1 x 32 tokens") as refused:
        predict(model, texts("a", LONG, truncate=False))
    assert refused.value.code is ErrorCode.TOO_LARGE
    predict(model, texts("a"))
    assert counts.results == [predictor.bundle_id]


@pytest.mark.parametrize("text", ["\u200b\u200b", "\u2060 \ufeff", "\u00ad", "\x7f", "â€‹"])
def test_a_text_of_invisible_characters_is_empty(
    predictor: Predictor, executor: ThreadPoolExecutor, text: str
) -> None:
    model = ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e6)
    for request, where in (
        (TextsRequest(inputs=text), "inputs"),
        (texts("a", text), r"inputs\[1\]"),
        (user("a", "b", text), r"posts\[2\]"),
    ):
        with pytest.raises(APIError, match=f"^{where}: is empty$") as refused:
            predict(model, request)
        assert refused.value.code is ErrorCode.INVALID


class AsynchronousLogits(torch.Tensor):
    """Logits as a GPU returns them: not computed yet, and whoever reads them waits."""

    wait: Callable[[], None]

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        self.wait()
        return self.as_subclass(torch.Tensor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.cpu())


def as_on_a_gpu(predictor: Predictor, wait: Callable[[], None]) -> Predictor:
    """A copy of a predictor whose passes return at once, and whose logits are read after `wait`."""
    copied = copy(predictor)

    def forward(windows: Sequence[list[int]]) -> torch.Tensor:
        logits = predictor.forward(windows).as_subclass(AsynchronousLogits)
        logits.wait = wait
        return logits

    copied.forward = forward  # type: ignore[method-assign]
    return copied


def test_the_event_loop_runs_while_a_device_computes(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    reading, done = threading.Event(), threading.Event()

    def wait() -> None:
        reading.set()
        assert done.wait(10), "the event loop waited for the device"

    async def main() -> PredictResult:
        device = as_on_a_gpu(predictor, wait)
        model = ServedModel(device, {1: executor}, ServeConfig(), tokens_per_s=1e6)
        answer = asyncio.create_task(model.predict(texts("a", "a quiet book")))
        await asyncio.to_thread(reading.wait, 10)
        # Only the loop lets the device finish.
        done.set()
        return await answer

    found = asyncio.run(main()).predictions
    assert found == predictor.predict([("a",), ("a quiet book",)], whole=False)


def test_warm_up_waits_for_the_device_and_times_a_full_pass(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    sizes: list[int] = []
    device = as_on_a_gpu(predictor, lambda: time.sleep(0.05))
    forward = device.forward

    def recorded(windows: Sequence[list[int]]) -> torch.Tensor:
        sizes.append(sum(map(len, windows)))
        return forward(windows)

    device.forward = recorded  # type: ignore[method-assign]
    speed = warm_up(device, {1: executor}, ServeConfig(batch_tokens=1024))
    assert sizes[-2:] == [1024, 1024]
    assert speed <= 1024 / 0.05


@pytest.mark.parametrize("influence", [False, True])
def test_masked_spans_of_long_texts_are_found_outside_the_event_loop_and_only_for_the_posts_given(
    predictor: Predictor,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    influence: bool,
) -> None:
    calls: list[tuple[str, bool]] = []
    explain = predictor.explain_masking

    def recorded(post: str) -> dict[str, Any]:
        calls.append((post, threading.current_thread() is threading.main_thread()))
        return explain(post)

    monkeypatch.setattr(predictor, "explain_masking", recorded)
    model = ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e6)
    long = "as an INTJ " * 100
    masked = predict(model, user(long, "b", explain=True, influence=influence))[0].masked
    assert masked == [[explain(long), explain("b")]]
    assert calls == [(long, False), ("b", False)]


def test_warm_up_measures_a_speed(predictor: Predictor, executor: ThreadPoolExecutor) -> None:
    assert warm_up(predictor, {1: executor}, ServeConfig()) > 100


def test_only_one_thread_computes_with_all_cores_and_none_changes_its_number(
    predictor: Predictor,
) -> None:
    used: dict[int, set[int]] = {}
    device = copy(predictor)

    def forward(windows: Any) -> torch.Tensor:
        used.setdefault(threading.get_ident(), set()).add(torch.get_num_threads())
        return predictor.forward(windows)

    device.forward = forward  # type: ignore[method-assign]
    config = ServeConfig(cpus=2)
    executors = forward_executors(config)
    speed = warm_up(device, executors, config)
    model = ServedModel(device, executors, config, tokens_per_s=speed)
    predict(model, *(texts(f"text {n}", LONG) for n in range(40)), texts("one"))
    predict(model, texts("alone"))
    for executor in executors.values():
        executor.shutdown()
    assert sorted(map(sorted, used.values())) == [[1], [1], [2]]
