"""Several gloo ranks train as one does: gradual stages, uneven micro-batches, overflows."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import ORDER_OF_SUMS, STEP, forced_overflows, read_few_rows, run_ranks

from mbti_ray.config import RunConfig, config_from_dict
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.engine.cross_fit import cross_fit
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
# Batches of at most 64 tokens: ranks have other counts of them.
_UNEVEN = ("fit.batch_size=1", f"fit.accumulate={STEP}", "fit.epochs=1")
CASES = {
    "gradual": ["model.trainable=gradual", "fit.epochs=3", "optim.lr=5e-4"],
    "uneven": [*_UNEVEN],
    # Persons with other posts in each epoch.
    "posts": [
        *("model.reader=posts", "model.post_tokens=24", "model.post_layers=1", "fit.posts=3"),
        *("model.max_tokens=64", *_UNEVEN),
    ],
    "stack": ["model.reader=stack", "fit.epochs=1"],
    "overflow": ["fit.epochs=2", "loss.pos_weight=[64,64,64,64]"],
    # Sums over batches of one size overflow alike, on however many ranks.
    "overflow in float16": [
        *("fit.precision=16-mixed", "fit.epochs=2", "fit.batch_size=4", "fit.accumulate=8"),
    ],
}
# Half precision rounds the gradient of each rank; AdamW makes steps of the learning rate of it.
_LIMITS = {"overflow in float16": 5e-3}


def trained(name: str, config: RunConfig, data: Dataset) -> dict[str, Any]:
    # float16 overflows at a scale that float32 stands.
    scale = 2.0**30 if config.fit.precision == "16-mixed" else 2.0**127
    overflows = forced_overflows(init_scale=scale) if "overflow" in name else nullcontext()
    with overflows:
        outcome = run(config, data, Worker(), score_test=False)
    fitted = cross_fit(config, data, Worker(), epochs=1)
    return {
        "weights": dict(outcome.model.state_dict()),
        "skipped": outcome.progress.skipped,
        "cross_fitted": torch.zeros(1) if fitted is None else torch.from_numpy(fitted),
    }


def train_all(rank: int, trees: dict[str, Any], datasets: dict[str, str]) -> dict[str, Any]:
    return {
        name: trained(name, config_from_dict(tree), read_few_rows(datasets[name]))
        for name, tree in trees.items()
    }


@pytest.fixture(scope="module")
def trees(short: Build) -> dict[str, Any]:
    return {n: short("model.dropout=0", *c).model_dump(mode="json") for n, c in CASES.items()}


@pytest.fixture(scope="module")
def datasets(trees: dict[str, Any], cache: Path) -> dict[str, str]:
    found = {n: prepare_dataset(config_from_dict(tree), cache).key for n, tree in trees.items()}
    return {name: str(cache / key) for name, key in found.items()}


@pytest.fixture(scope="module")
def alone(trees: dict[str, Any], datasets: dict[str, str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return train_all(0, trees, datasets)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_equal_each_other_and_one_rank(
    trees: dict[str, Any],
    datasets: dict[str, str],
    alone: dict[str, Any],
    tmp_path: Path,
    ranks: int,
) -> None:
    first, *others = run_ranks(train_all, tmp_path, trees, datasets, world_size=ranks)
    for name, expected in alone.items():
        assert (expected["skipped"] > 0) == ("overflow" in name)
        for other in others:
            assert other[name]["skipped"] == expected["skipped"]
            for key, value in first[name]["weights"].items():
                assert torch.equal(value, other[name]["weights"][key]), (name, key)
        for key, value in expected["weights"].items():
            gap = (first[name]["weights"][key] - value).abs().max()
            assert gap < _LIMITS.get(name, ORDER_OF_SUMS), (name, key)
        # Logits sum many such weights.
        torch.testing.assert_close(
            first[name]["cross_fitted"], expected["cross_fitted"], rtol=0, atol=50 * ORDER_OF_SUMS
        )
