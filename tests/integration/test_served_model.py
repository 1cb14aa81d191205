"""A bundle behind its queues: the predictor's results, the cache, refusals."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.config.schema import ServeConfig
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.batching import ForwardPass
from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest
from mbti_ray.serving.served_model import PredictResult, ServeCallback, ServedModel, warm_up

pytestmark = pytest.mark.integration

LONG = "a long evening with many words " * 20


@pytest.fixture(scope="module")
def predictor(
    quick: Callable[..., RunConfig], make_bundle: Callable[[RunConfig], Path]
) -> Predictor:
    return Predictor.load(make_bundle(quick("model.max_tokens=32", "fit.epochs=1")))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Counts(ServeCallback):
    """Counts windows and results."""

    def __init__(self) -> None:
        self.windows = 0
        self.results: list[str] = []

    def on_forward(self, done: ForwardPass) -> None:
        self.windows += done.windows

    def on_result(self, result: PredictResult, bundle_id: str) -> None:
        self.results.append(bundle_id)


def build_request(*users: tuple[str, ...], whole: bool = False, **changes: Any) -> PredictRequest:
    return PredictRequest(users, whole=whole, single=False, **changes)


def predict(model: ServedModel, *requests: PredictRequest) -> list[PredictResult]:
    async def main() -> list[PredictResult]:
        return await asyncio.gather(*(model.predict(request) for request in requests))

    return asyncio.run(main())


def test_results_are_the_predictors_for_texts_and_for_users_in_windows(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, executor, ServeConfig(), tokens_per_s=1e6)
    texts, user = [("a",), (LONG,), ("a quiet book",)], (LONG, "a party", LONG)
    one_by_one, whole = predict(model, build_request(*texts), build_request(user, whole=True))
    expected = predictor.predict(texts, whole=False) + predictor.predict([user], whole=True)
    for found, right in zip([*one_by_one.predictions, *whole.predictions], expected, strict=True):
        assert found.mbti_type == right.mbti_type
        assert (found.truncated, found.windows) == (right.truncated, right.windows)
        assert found.probabilities == pytest.approx(right.probabilities, abs=1e-6)
    assert whole.predictions[0].windows > 1
    assert whole.timing.forward > 0


def test_a_cached_text_is_not_computed_again(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    config = ServeConfig(cache=2)
    model = ServedModel(predictor, executor, config, tokens_per_s=1e6, callback=counts)

    def windows_of(*users: tuple[str, ...], whole: bool = False) -> int:
        counts.windows = 0
        predict(model, build_request(*users, whole=whole))
        return counts.windows

    first = predict(model, build_request(("a",), ("b",)))[0].predictions
    assert windows_of(("b",), ("a",)) == 0
    assert predict(model, build_request(("a",)))[0].predictions == first[:1]
    # Read as a user it has another key, which evicts the oldest of the two.
    assert windows_of(("a",), whole=True) == 1
    assert windows_of(("a",)) == 0
    assert windows_of(("b",)) == 1


def test_a_text_too_long_is_refused_if_it_must_not_be_truncated(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    model = ServedModel(predictor, executor, ServeConfig(), tokens_per_s=1e6, callback=counts)
    with pytest.raises(APIError, match=r"inputs\[1\]: has more than 32 tokens") as refused:
        predict(model, build_request(("a",), (LONG,), truncate=False))
    assert refused.value.code is ErrorCode.TOO_LARGE
    predict(model, build_request(("a",)))
    assert counts.results == [predictor.bundle_id]


def test_a_full_queue_is_429_with_the_seconds_to_wait(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, executor, ServeConfig(max_wait_s=2), tokens_per_s=1)

    gate = threading.Event()

    async def main() -> APIError:
        executor.submit(gate.wait, 10)
        # The first moves on to the thread, which is blocked; the second waits in the queue.
        tasks = [asyncio.create_task(model.predict(build_request(("one",))))]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(model.predict(build_request(*[("a book",)] * 9)))]
        while model.wait_s <= 2:
            await asyncio.sleep(0.01)
        with pytest.raises(APIError) as refused:
            await model.predict(build_request(("a",)))
        gate.set()
        await asyncio.gather(*tasks)
        return refused.value

    error = asyncio.run(main())
    assert error.code is ErrorCode.QUEUE_FULL
    assert error.retry_after_s > 2


def test_a_queue_that_filled_during_tokenization_is_429_too(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, executor, ServeConfig(max_wait_s=2), tokens_per_s=1)
    gate = threading.Event()

    async def main() -> list[PredictResult | BaseException]:
        executor.submit(gate.wait, 10)
        # None of them has a token in the queue when the others are admitted.
        tasks = [
            asyncio.create_task(model.predict(build_request(*[(text,)] * 9))) for text in "abc"
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        assert all(isinstance(task.exception(), APIError) for task in done)
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert sum(isinstance(result, APIError) for result in found) == 1


def test_texts_waiting_for_the_tokenizer_count_as_waiting(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, executor, ServeConfig(max_wait_s=0.05), tokens_per_s=1e9)
    long = build_request((LONG * 20,))

    async def main() -> list[PredictResult | BaseException]:
        return await asyncio.gather(
            *(model.predict(long) for _ in range(50)), return_exceptions=True
        )

    found = asyncio.run(main())
    refused = [error for error in found if isinstance(error, APIError)]
    assert {error.code for error in refused} == {ErrorCode.QUEUE_FULL}
    assert 0 < len(refused) < 50
    assert model.wait_s == 0


@pytest.mark.parametrize("influence", [False, True])
def test_masked_spans_are_found_outside_the_event_loop_and_only_for_the_posts_given(
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
    model = ServedModel(predictor, executor, ServeConfig(), tokens_per_s=1e6)
    users = [("as an INTJ", "b"), ("b",), ("as an INTJ",)] if influence else [("as an INTJ", "b")]
    request = build_request(*users, whole=True, explain=True, influence=influence)
    masked = predict(model, request)[0].masked
    assert masked == [[explain("as an INTJ"), explain("b")]]
    assert calls == [("as an INTJ", False), ("b", False)]


def test_warm_up_measures_a_speed(predictor: Predictor, executor: ThreadPoolExecutor) -> None:
    assert warm_up(predictor, executor) > 100
