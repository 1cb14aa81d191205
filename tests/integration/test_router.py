"""The router: which bundle answers a request, and what happens to one during a switch."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import BundleError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.router import Router
from mbti_ray.serving.schemas import APIError, ErrorCode, TextsRequest
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget

pytestmark = pytest.mark.integration


@pytest.fixture
def load(executor: ThreadPoolExecutor) -> Callable[[str, ServedModel | None], ServedModel]:
    """Loads the bundle at a location, or keeps the loaded model if it is of the same bundle."""

    def load(location: str, loaded: ServedModel | None) -> ServedModel:
        predictor = Predictor.load(Path(location))
        if loaded is not None and loaded.bundle_id == predictor.bundle_id:
            return loaded
        return ServedModel(predictor, {1: executor}, ServeConfig(), tokens_per_s=1e6)

    return load


Load = Callable[[str, ServedModel | None], ServedModel]


def build_request(text: str) -> TextsRequest:
    return TextsRequest(inputs=text)


def test_a_share_of_the_requests_goes_to_the_canary_always_the_same_ones(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    router = Router(load, ServingTarget(str(bundle), str(other_bundle), canary_share=0.25))
    texts = [f"text {n}" for n in range(2000)]
    chosen = [router.route(build_request(text), None).bundle_id for text in texts]
    second = router.info["beside"]["bundle_id"]
    assert router.info["bundle_id"] != second
    # Four standard deviations around a quarter of 2,000.
    assert 422 <= chosen.count(second) <= 578
    assert [router.route(build_request(text), None).bundle_id for text in texts] == chosen


def test_a_request_may_select_a_bundle_and_an_unknown_one_is_404_with_those_served(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    router = Router(load, ServingTarget(str(bundle), str(other_bundle)))
    second = router.info["beside"]["bundle_id"]
    request = build_request("a")
    assert router.route(request, None).bundle_id == router.info["bundle_id"]
    assert router.route(request, second).bundle_id == second
    with pytest.raises(
        APIError, match=f"available: {router.info['bundle_id']}, {second}"
    ) as refused:
        router.route(request, "nothing")
    assert refused.value.code is ErrorCode.NOT_FOUND


def test_a_request_is_finished_by_the_bundle_it_started_with(
    load: Load, bundle: Path, other_bundle: Path, executor: ThreadPoolExecutor
) -> None:
    router = Router(load, ServingTarget(str(bundle)))
    gate = threading.Event()

    async def main() -> None:
        executor.submit(gate.wait, 30)
        first = router.route(build_request("a quiet book"), None)
        running = asyncio.create_task(first.predict(build_request("a quiet book")))
        await asyncio.to_thread(router.switch_to, ServingTarget(str(other_bundle), version=1))
        assert router.route(build_request("a"), None).bundle_id != first.bundle_id
        gate.set()
        found = (await running).predictions[0]
        right = Predictor.load(bundle).predict([["a quiet book"]], whole=False)[0]
        assert found.probabilities == pytest.approx(right.probabilities, abs=1e-6)

    asyncio.run(main())


def test_a_target_that_cannot_be_served_changes_nothing(
    load: Load, bundle: Path, tmp_path: Path
) -> None:
    router = Router(load, ServingTarget(str(bundle)))
    before = router.route(build_request("a"), None)
    with pytest.raises(BundleError, match="not a bundle"):
        router.switch_to(ServingTarget(str(tmp_path), version=1))
    assert router.target.version == 0
    assert router.route(build_request("a"), None) is before


def test_a_bundle_that_stays_is_not_loaded_again(
    load: Load, bundle: Path, other_bundle: Path
) -> None:
    router = Router(load, ServingTarget(str(bundle)))
    first = router.route(build_request("a"), None)
    router.switch_to(ServingTarget(str(other_bundle), str(bundle), version=1))
    assert router.route(build_request("a"), first.bundle_id) is first
