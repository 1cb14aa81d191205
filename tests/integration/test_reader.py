"""A bundle behind its queue: the predictor's answers, kept answers, refusals."""

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
from mbti_ray.serving.batching import Pass
from mbti_ray.serving.schemas import ErrorCode, Question, WireError
from mbti_ray.serving.served_model import Answered, Reader, Watcher, warm_up

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


class Counts(Watcher):
    """What a reader told of itself."""

    def __init__(self) -> None:
        self.windows = 0
        self.answers: list[str] = []

    def count_pass(self, done: Pass) -> None:
        self.windows += done.windows

    def count_answer(self, answered: Answered, bundle_id: str) -> None:
        self.answers.append(bundle_id)


def question(*users: tuple[str, ...], whole: bool = False, **changes: Any) -> Question:
    return Question(users, whole=whole, single=False, **changes)


def answers(reader: Reader, *questions: Question) -> list[Answered]:
    async def main() -> list[Answered]:
        return await asyncio.gather(*(reader.answer(q) for q in questions))

    return asyncio.run(main())


def test_answers_are_the_predictors_for_texts_and_for_users_in_windows(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    reader = Reader(predictor, executor, ServeConfig(), tokens_per_s=1e6)
    texts, user = [("a",), (LONG,), ("a quiet book",)], (LONG, "a party", LONG)
    one_by_one, whole = answers(reader, question(*texts), question(user, whole=True))
    expected = predictor.predict(texts, whole=False) + predictor.predict([user], whole=True)
    for found, right in zip([*one_by_one.predictions, *whole.predictions], expected, strict=True):
        assert found.mbti_type == right.mbti_type
        assert (found.truncated, found.windows) == (right.truncated, right.windows)
        assert found.probabilities == pytest.approx(right.probabilities, abs=1e-6)
    assert whole.predictions[0].windows > 1
    assert whole.timing.forward > 0


def test_a_text_that_comes_again_is_not_read_again(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    config = ServeConfig(cache=2)
    reader = Reader(predictor, executor, config, tokens_per_s=1e6, watcher=counts)

    def windows_of(*users: tuple[str, ...], whole: bool = False) -> int:
        counts.windows = 0
        answers(reader, question(*users, whole=whole))
        return counts.windows

    first = answers(reader, question(("a",), ("b",)))[0].predictions
    assert windows_of(("b",), ("a",)) == 0
    assert answers(reader, question(("a",)))[0].predictions == first[:1]
    # Read as a user it is another question; and the oldest of two made room for it.
    assert windows_of(("a",), whole=True) == 1
    assert windows_of(("a",)) == 0
    assert windows_of(("b",)) == 1


def test_a_text_that_must_not_be_cut_is_refused(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    counts = Counts()
    reader = Reader(predictor, executor, ServeConfig(), tokens_per_s=1e6, watcher=counts)
    with pytest.raises(WireError, match=r"inputs\[1\]: has more than 32 tokens") as refused:
        answers(reader, question(("a",), (LONG,), truncate=False))
    assert refused.value.code is ErrorCode.TOO_LARGE
    answers(reader, question(("a",)))
    assert counts.answers == [predictor.bundle_id]


def test_a_queue_that_is_too_long_says_when_to_come_back(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    reader = Reader(predictor, executor, ServeConfig(max_wait_s=2), tokens_per_s=1)

    gate = threading.Event()

    async def main() -> WireError:
        executor.submit(gate.wait, 10)
        # The first leaves the queue for the thread, which is held up; the second waits in it.
        tasks = [asyncio.create_task(reader.answer(question(("one",))))]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(reader.answer(question(*[("a book",)] * 9)))]
        while reader.wait_s <= 2:
            await asyncio.sleep(0.01)
        with pytest.raises(WireError) as refused:
            await reader.answer(question(("a",)))
        gate.set()
        await asyncio.gather(*tasks)
        return refused.value

    error = asyncio.run(main())
    assert error.code is ErrorCode.QUEUE_FULL
    assert error.retry_after_s > 2


def test_a_crowd_of_texts_to_tokenise_is_a_queue_too(
    predictor: Predictor, executor: ThreadPoolExecutor
) -> None:
    reader = Reader(predictor, executor, ServeConfig(max_wait_s=0.05), tokens_per_s=1e9)
    long = question((LONG * 20,))

    async def main() -> list[Answered | BaseException]:
        return await asyncio.gather(
            *(reader.answer(long) for _ in range(50)), return_exceptions=True
        )

    found = asyncio.run(main())
    refused = [error for error in found if isinstance(error, WireError)]
    assert {error.code for error in refused} == {ErrorCode.QUEUE_FULL}
    assert 0 < len(refused) < 50
    assert reader.wait_s == 0


def test_warming_up_measures_a_speed(predictor: Predictor, executor: ThreadPoolExecutor) -> None:
    assert warm_up(predictor, executor) > 100
