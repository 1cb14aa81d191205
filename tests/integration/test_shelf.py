"""Bundles on a shelf: which one answers, and what becomes of a question when the shelf changes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbti_ray.config.schema import ServeConfig
from mbti_ray.errors import BundleError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.router import Shelf
from mbti_ray.serving.schemas import ErrorCode, Question, WireError
from mbti_ray.serving.served_model import Reader
from mbti_ray.serving.target import Wanted

pytestmark = pytest.mark.integration


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def load(executor: ThreadPoolExecutor) -> Callable[[str, Reader | None], Reader]:
    """Loads the bundle at a place; keeps the reader that there is where it is the same bundle."""

    def load(place: str, there: Reader | None) -> Reader:
        predictor = Predictor.load(Path(place))
        if there is not None and there.bundle_id == predictor.bundle_id:
            return there
        return Reader(predictor, executor, ServeConfig(), tokens_per_s=1e6)

    return load


Load = Callable[[str, Reader | None], Reader]


def question(text: str) -> Question:
    return Question(((text,),), whole=False, single=True)


def test_a_share_of_the_questions_goes_to_the_second_bundle_always_the_same_ones(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    shelf = Shelf(load, Wanted(str(bundle), str(other_bundle), share=0.25))
    texts = [f"text {n}" for n in range(2000)]
    chosen = [shelf.choose(None, question(text)).bundle_id for text in texts]
    second = shelf.info["beside"]["bundle_id"]
    assert shelf.info["bundle_id"] != second
    # Four standard deviations around a quarter of 2,000.
    assert 422 <= chosen.count(second) <= 578
    assert [shelf.choose(None, question(text)).bundle_id for text in texts] == chosen


def test_who_asks_for_a_bundle_gets_it_or_hears_what_there_is(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    shelf = Shelf(load, Wanted(str(bundle), str(other_bundle)))
    second = shelf.info["beside"]["bundle_id"]
    asked = question("a")
    assert shelf.choose(None, asked).bundle_id == shelf.info["bundle_id"]
    assert shelf.choose(second, asked).bundle_id == second
    with pytest.raises(WireError, match=f"there is {shelf.info['bundle_id']}, {second}") as refused:
        shelf.choose("nothing", asked)
    assert refused.value.code is ErrorCode.NOT_FOUND


def test_a_question_that_has_begun_is_answered_by_the_bundle_it_began_with(
    load: Load, bundle: Path, other_bundle: Path, executor: ThreadPoolExecutor
) -> None:
    shelf = Shelf(load, Wanted(str(bundle)))
    gate = threading.Event()

    async def main() -> None:
        executor.submit(gate.wait, 30)
        first = shelf.choose(None, question("a quiet book"))
        begun = asyncio.create_task(first.answer(question("a quiet book")))
        await asyncio.to_thread(shelf.change, Wanted(str(other_bundle), number=1))
        assert shelf.choose(None, question("a")).bundle_id != first.bundle_id
        gate.set()
        found = (await begun).predictions[0]
        right = Predictor.load(bundle).predict([["a quiet book"]], whole=False)[0]
        assert found.probabilities == pytest.approx(right.probabilities, abs=1e-6)

    asyncio.run(main())


def test_what_cannot_be_served_changes_nothing(load: Load, bundle: Path, tmp_path: Path) -> None:
    shelf = Shelf(load, Wanted(str(bundle)))
    before = shelf.choose(None, question("a"))
    with pytest.raises(BundleError, match="not a bundle"):
        shelf.change(Wanted(str(tmp_path), number=1))
    assert shelf.wanted.number == 0
    assert shelf.choose(None, question("a")) is before


def test_a_bundle_that_stays_is_not_loaded_again(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    shelf = Shelf(load, Wanted(str(bundle)))
    first = shelf.choose(None, question("a"))
    shelf.change(Wanted(str(other_bundle), str(bundle), number=1))
    assert shelf.choose(first.bundle_id, question("a")) is first
