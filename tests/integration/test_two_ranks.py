"""Two gloo ranks train as one does: gradual stages, uneven micro-batches, overflows of float16."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import run_ranks

from mbti_ray.config import RunConfig, config_from_dict
from mbti_ray.data.dataset import Dataset, prepare_dataset, read_dataset
from mbti_ray.engine.cross_fit import cross_fit
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
# float32 sums in another order; see test_engine.
_ORDER_OF_SUMS = 2e-4
CASES = {
    "gradual": ["model.trainable=gradual", "fit.epochs=3", "optim.lr=5e-4"],
    # Steps of 9 windows are 5 and 4 for the ranks, in batches of at most 2 windows.
    "uneven": ["fit.batch_size=1", "fit.accumulate=9", "fit.epochs=1"],
    # Persons with other posts in each epoch: 9 a step, in batches of about 64 tokens.
    "posts": [
        *("model.reader=posts", "model.post_tokens=24", "model.post_layers=1", "fit.posts=3"),
        *("fit.batch_size=1", "fit.accumulate=9", "fit.epochs=1", "model.max_tokens=64"),
    ],
    "stack": ["model.reader=stack", "fit.epochs=1"],
    "overflow": ["fit.precision=16-mixed", "fit.epochs=1", "fit.batch_size=64"],
}


def trained(config: RunConfig, data: Dataset) -> dict[str, Any]:
    """The end of a run whose loss scale, if it has one, overflows at first."""
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**30)
    with mock.patch.object(torch.amp, "GradScaler", scaler):
        outcome = run(config, data, Worker(), score_test=False)
        fitted = cross_fit(config, data, Worker(), epochs=1)
    return {
        "weights": dict(outcome.model.state_dict()),
        "skipped": outcome.progress.skipped,
        "cross_fitted": torch.zeros(1) if fitted is None else torch.from_numpy(fitted),
    }


def train_all(rank: int, trees: dict[str, Any], datasets: dict[str, str]) -> dict[str, Any]:
    return {
        name: trained(config_from_dict(tree), read_dataset(Path(datasets[name])))
        for name, tree in trees.items()
    }


def test_two_ranks_equal_each_other_and_one_rank(short: Build, cache: Path, tmp_path: Path) -> None:
    configs = {name: short("model.dropout=0", *more) for name, more in CASES.items()}
    trees = {name: config.model_dump(mode="json") for name, config in configs.items()}
    data = {name: prepare_dataset(config, cache) for name, config in configs.items()}
    datasets = {name: str(cache / made.key) for name, made in data.items()}
    first, second = run_ranks(train_all, tmp_path, trees, datasets)
    for name, config in configs.items():
        alone = trained(config, data[name])
        assert first[name]["skipped"] == second[name]["skipped"] == alone["skipped"]
        assert (alone["skipped"] > 0) == (name == "overflow")
        for key, value in alone["weights"].items():
            assert torch.equal(first[name]["weights"][key], second[name]["weights"][key])
            limit = 5e-3 if name == "overflow" else _ORDER_OF_SUMS
            gap = (first[name]["weights"][key] - value).abs().max()
            assert gap < limit, (name, key)
        # Logits sum many such weights.
        torch.testing.assert_close(
            first[name]["cross_fitted"], alone["cross_fitted"], rtol=0, atol=50 * _ORDER_OF_SUMS
        )
