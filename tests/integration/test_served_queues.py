"""The queues of a served model: what counts as waiting, and when a request is 429."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.schemas import APIError, ErrorCode, TextsRequest
from mbti_ray.serving.served_model import PredictResult, ServedModel

pytestmark = pytest.mark.integration

LONG = "a long evening with many words " * 20


def texts(*given: str) -> TextsRequest:
    return TextsRequest(inputs=list(given))


def test_a_full_queue_is_429_with_the_seconds_to_wait(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, {1: executor}, ServeConfig(max_wait_s=2), tokens_per_s=1)

    gate = threading.Event()

    async def main() -> APIError:
        executor.submit(gate.wait, 10)
        # The first moves on to the thread, which is blocked; the second waits in the queue.
        tasks = [asyncio.create_task(model.predict(texts("one")))]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(model.predict(texts(*(f"a book {n}" for n in range(9)))))]
        while model.wait_s <= 2:
            await asyncio.sleep(0.01)
        with pytest.raises(APIError) as refused:
            await model.predict(texts("a"))
        gate.set()
        await asyncio.gather(*tasks)
        return refused.value

    error = asyncio.run(main())
    assert error.code is ErrorCode.QUEUE_FULL
    assert error.retry_after_s > 2


def test_a_queue_that_filled_during_tokenization_is_429_too(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    model = ServedModel(predictor, {1: executor}, ServeConfig(max_wait_s=2), tokens_per_s=1)
    gate = threading.Event()

    async def main() -> list[PredictResult | BaseException]:
        executor.submit(gate.wait, 10)
        # None of them has a token in the queue when the others are admitted.
        tasks = [
            asyncio.create_task(model.predict(texts(*(f"{text} {n}" for n in range(9)))))
            for text in "abc"
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        assert all(isinstance(task.exception(), APIError) for task in done)
        return await asyncio.gather(*tasks, return_exceptions=True)

    refused = [error for error in asyncio.run(main()) if isinstance(error, APIError)]
    assert {error.code for error in refused} == {ErrorCode.QUEUE_FULL}
    # The first is always accepted; the second too if the pass with the first has begun by then.
    assert len(refused) in (1, 2)


def test_texts_waiting_for_the_tokenizer_count_as_waiting(
    predictor: Predictor, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, encode = threading.Event(), predictor.encode
    monkeypatch.setattr(
        predictor, "encode", lambda *given, **how: gate.wait(10) and encode(*given, **how)
    )
    model = ServedModel(predictor, {1: executor}, ServeConfig(max_wait_s=0.05), tokens_per_s=1e9)
    long = texts(LONG * 20)

    async def main() -> list[PredictResult | BaseException]:
        tasks = [asyncio.create_task(model.predict(long)) for _ in range(50)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    refused = [error for error in found if isinstance(error, APIError)]
    assert {error.code for error in refused} == {ErrorCode.QUEUE_FULL}
    assert 0 < len(refused) < 50
    assert model.wait_s == 0


def test_predictions_of_several_texts_are_made_outside_the_event_loop_and_count_as_waiting(
    predictor: Predictor, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate, make = threading.Event(), threading.Event(), predictor.to_predictions

    def blocked(*given: Any) -> Any:
        begun.set()
        gate.wait(10)
        return make(*given)

    monkeypatch.setattr(predictor, "to_predictions", blocked)
    model = ServedModel(predictor, {1: executor}, ServeConfig(max_wait_s=0.005), tokens_per_s=1e9)

    async def main() -> PredictResult:
        task = asyncio.create_task(model.predict(texts(LONG * 20, "b")))
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(APIError) as refusal:
            await model.predict(texts("c", "d"))
        assert refusal.value.code == ErrorCode.QUEUE_FULL
        gate.set()
        return await task

    assert len(asyncio.run(main()).predictions) == 2
    assert model.wait_s == 0
