"""Trials on folds, and the best one trained again, as their actor and task do it; no Ray runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mbti_ray.config import RunConfig, override
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.bundle import load_bundle, load_row_hashes
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.shared_dataset import SharedDataset
from mbti_ray.on_ray.tune.trial import TrialSetup
from mbti_ray.on_ray.tune.tuner import _finish_best

pytestmark = pytest.mark.integration


def test_the_best_trial_is_trained_on_the_folds_that_its_trial_had_and_on_all_rows(
    quick: Callable[..., RunConfig], cache: Path, tmp_path: Path
) -> None:
    config = quick("data.folds=2", "fit.epochs=1", "scoring.baselines=false", "seed=5")
    configs = [config, *(override(config, {"data.fold": n}) for n in (1, 2))]
    prepared = [prepare_dataset(c, cache) for c in configs]
    shared = [SharedDataset(d.folder, "this one", d.info) for d in prepared]
    resources = Resources(cpus=1, gpus=0.0)
    setup = TrialSetup(config, shared[1:], tmp_path / "trials", resources, ("acc_mean",), seeds=2)
    runs = setup.run_configs({"optim.lr": 1e-3})
    assert [(c.seed, c.data.fold, d) for c, d in runs] == [
        (seed, fold, shared[fold]) for seed in (5, 6) for fold in (1, 2)
    ]
    values = [
        run(c, d.load(), Worker(), score_test=False).progress.best_scores["acc_mean"]
        for c, d in runs[:2]
    ]
    best = override(config, {"optim.lr": 1e-3})
    _finish_best(best, shared, tmp_path / "none", tmp_path / "best", resources)
    scores = json.loads((tmp_path / "best" / "scores.json").read_text("utf-8"))
    assert scores["val"]["acc_mean"] == pytest.approx(sum(values) / 2)
    assert [fold["best_epoch"] for fold in scores["folds"]] == [1, 1]
    assert scores["scorecard"]["rows"] == 313
    hashes = load_row_hashes(tmp_path / "best" / "bundle")
    assert hashes is not None
    assert len(hashes["train"]) == 313


def test_the_best_trial_is_bundled_as_tfidf_where_its_folds_ship_that(
    short: Callable[..., RunConfig], cache: Path, tmp_path: Path
) -> None:
    config = short("data.folds=2", "fit.epochs=1", "model.reader=best", "optim.lr=1e-9")
    config = override(config, {"scoring.resamples": 0})
    configs = [config, *(override(config, {"data.fold": n}) for n in (1, 2))]
    prepared = [prepare_dataset(c, cache) for c in configs]
    shared = [SharedDataset(d.folder, "this one", d.info) for d in prepared]
    _finish_best(config, shared, tmp_path / "none", tmp_path / "best", Resources(cpus=1, gpus=0.0))
    scores = json.loads((tmp_path / "best" / "scores.json").read_text("utf-8"))
    assert [scores["reader"], *(fold["reader"] for fold in scores["folds"])] == ["tfidf"] * 3
    bundle = load_bundle(tmp_path / "best" / "bundle")
    assert bundle.tfidf is not None
