"""A bundle that the tests with Ray share: trained once a session, without Ray."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mbti_ray.bundle import write_bundle
from mbti_ray.config import RunConfig
from mbti_ray.data.prepare import prepare_dataset
from mbti_ray.engine.fit import run
from mbti_ray.engine.worker import Worker
from mbti_ray.predictor import golden_logits


@pytest.fixture(scope="session")
def bundle(quick: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = quick("fit.epochs=1")
    data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
    outcome = run(config, data, Worker())
    folder = tmp_path_factory.mktemp("run") / "bundle"
    write_bundle(
        folder,
        config=config,
        model=outcome.model,
        tokenizer=data.tokenizer,
        facts=data.facts,
        scores={"val": outcome.val},
        golden_logits=golden_logits,
    )
    return folder
