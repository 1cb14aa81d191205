"""The training loop on a tiny encoder, without Ray."""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks

from mbti_ray.config import RunConfig, config_from_dict
from mbti_ray.data.dataset import Dataset, prepare_dataset, read_dataset
from mbti_ray.engine import loop
from mbti_ray.engine.checkpoint import load_checkpoint
from mbti_ray.engine.loop import Outcome, run
from mbti_ray.engine.validation import Evaluator, predict_rows
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import RunError
from mbti_ray.model.classifier import build_model
from mbti_ray.scores.metrics import score_rows
from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
State = dict[str, torch.Tensor]

# float32 sums in another order: 2e-5 was seen after two epochs of AdamW. The classic mistake, a
# mean of batch means where batches differ in size, was tried: off by 1.4e-2.
_ORDER_OF_SUMS = 2e-4


def weights(outcome: Outcome) -> State:
    return {k: v.clone() for k, v in outcome.model.state_dict().items()}


def gap(a: State, b: State) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def timeless(lines: list[Any]) -> list[Any]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "speed")} for line in lines]


def test_a_tiny_encoder_memorizes_32_texts(short: Build, short_data: Dataset) -> None:
    splits = {n: s.take(np.arange(min(32, s.row_count))) for n, s in short_data.splits.items()}
    assert splits["train"].row_count == 32
    memorized = replace(short_data, splits=splits)
    config = short("fit.epochs=80", "fit.patience=null", "model.dropout=0", "fit.monitor=loss")
    worker = Worker()
    run(config, memorized, worker)
    assert worker.records[-1]["train"]["loss"] < 0.05


def test_four_batches_of_8_give_the_weights_of_one_of_32(quick: Build, data: Dataset) -> None:
    one = run(quick("model.dropout=0", "fit.batch_size=32"), data, Worker())
    four = run(quick("model.dropout=0", "fit.batch_size=8", "fit.accumulate=4"), data, Worker())
    assert one.progress.step == four.progress.step
    assert gap(weights(one), weights(four)) < _ORDER_OF_SUMS
    other = run(quick("model.dropout=0", "optim.lr=2e-3"), data, Worker())
    assert gap(weights(one), weights(other)) > 20 * _ORDER_OF_SUMS


def test_two_workers_give_the_weights_and_scores_of_one(
    quick: Build, data: Dataset, cache: Path, tmp_path: Path
) -> None:
    config = quick("model.dropout=0")
    # An odd number of rows: an evaluation with a padded sampler would count one twice.
    assert data.splits["test"].row_count % 2 == 1
    alone = run(config, data, Worker())
    tree = config.model_dump(mode="json")
    ranks = run_ranks(_train_rank, tmp_path, tree, str(cache / data.key))
    assert gap(ranks[0]["weights"], ranks[1]["weights"]) == 0.0
    assert gap(weights(alone), ranks[0]["weights"]) < _ORDER_OF_SUMS
    for rank in ranks:
        assert rank["test"]["rows"] == data.splits["test"].row_count
        assert rank["test"] == pytest.approx(alone.test, abs=1e-4)
        assert rank["val"] == pytest.approx(alone.val, abs=1e-4)


def _train_rank(rank: int, tree: dict[str, Any], dataset: str) -> dict[str, Any]:
    outcome = run(config_from_dict(tree), read_dataset(Path(dataset)), Worker())
    return {"weights": weights(outcome), "val": outcome.val, "test": outcome.test}


def test_a_run_resumed_in_the_middle_of_an_epoch_equals_the_uninterrupted_run_bit_for_bit(
    short: Build, short_data: Dataset, tmp_path: Path
) -> None:
    config = short("fit.checkpoint_steps=3", "fit.epochs=3")
    whole = Worker(folder=tmp_path / "whole")
    uninterrupted = run(config, short_data, whole)
    cut = tmp_path / "whole" / "checkpoints" / "step-0000012"
    assert load_checkpoint(cut).progress.epoch_step > 0
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    cut.rename(again / "checkpoints" / cut.name)
    # What a killed run reported after its checkpoint is reported again, once.
    (again / "metrics.jsonl").write_text('{"epoch": 2, "step": 16}\n{"epoch": 3, "st', "utf-8")
    continued = run(config, short_data, Worker(folder=again))
    assert gap(weights(uninterrupted), weights(continued)) == 0.0
    assert continued.test == uninterrupted.test
    lines = [json.loads(x) for x in (again / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert timeless(lines) == timeless(whole.records)[1:]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a tmpfs")
@pytest.mark.parametrize("kib", [100, 700], ids=["weights", "optimizer"])
def test_a_checkpoint_for_which_there_is_no_space_ends_the_run_with_what_to_do(
    short: Build, short_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kib: int
) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    # Where checkpoints are written before a worker stores them.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        with pytest.raises(RunError, match=r"could not be saved .*No space left.*--resume"):
            run(short("fit.epochs=1"), short_data, Worker())
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_resuming_a_finished_run_only_scores_it_again(
    short: Build, short_data: Dataset, tmp_path: Path
) -> None:
    first = run(short(), short_data, Worker(folder=tmp_path))
    second = run(short(), short_data, Worker(folder=tmp_path))
    assert gap(weights(first), weights(second)) == 0.0
    assert (first.val, first.test) == (second.val, second.test)
    assert len((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()) == 2


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    short: Build, short_data: Dataset
) -> None:
    first, same = run(short(), short_data, Worker()), run(short(), short_data, Worker())
    assert gap(weights(first), weights(same)) == 0.0
    assert gap(weights(first), weights(run(short("seed=1"), short_data, Worker()))) > 0.0


@pytest.fixture(scope="module")
def plain(short: Build, short_data: Dataset) -> Outcome:
    """A run of short windows without dropout, for runs that are to end like it."""
    torch.set_num_threads(1)
    return run(short("model.dropout=0"), short_data, Worker())


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_learns_what_float32_learns(
    short: Build, short_data: Dataset, plain: Outcome, precision: str
) -> None:
    mixed = run(short("model.dropout=0", f"fit.precision={precision}"), short_data, Worker())
    assert mixed.val["loss"] == pytest.approx(plain.val["loss"], abs=0.02)


def test_gradual_trains_the_heads_then_the_last_layer_then_everything(
    short: Build, short_data: Dataset
) -> None:
    start = build_model(short().model, vocabulary=len(short_data.tokenizer), seed=0).state_dict()
    moved = []
    for epochs in (1, 2, 3):
        worker = Worker()
        config = short("model.trainable=gradual", f"fit.epochs={epochs}", "optim.lr=5e-4")
        end = weights(run(config, short_data, worker))
        assert worker.records[-1]["best_epoch"] == epochs, "the kept weights must be the last ones"
        moved.append({k.split(".layer.")[-1][:2] for k in end if not torch.equal(end[k], start[k])})
    heads, last, everything = moved
    assert heads == {"he"}
    assert last == {"he", "1."}
    assert {"0.", "1.", "en", "he"} <= everything


def test_early_stopping_waits_for_as_many_epochs_as_patience_allows(
    short: Build, short_data: Dataset
) -> None:
    # A learning rate at which no prediction can change.
    config = short("optim.lr=1e-12", "fit.patience=2", "fit.epochs=9", "fit.monitor=acc_mean")
    outcome = run(config, short_data, Worker())
    assert outcome.progress.epoch == 3
    assert outcome.progress.best_epoch == 1
    assert outcome.progress.stopped


def test_a_run_that_early_stopping_ended_goes_on_with_more_epochs_only(
    short: Build, short_data: Dataset, tmp_path: Path
) -> None:
    settings = ("optim.lr=1e-12", "fit.patience=2", "fit.monitor=acc_mean")
    for epochs, trained in ((9, 3), (9, 3), (10, 5), (10, 5)):
        config = short(*settings, f"fit.epochs={epochs}")
        progress = run(config, short_data, Worker(folder=tmp_path), score_test=False).progress
        assert (progress.epoch, progress.best_epoch, progress.stopped) == (trained, 1, True)


def test_an_evaluation_whose_score_is_no_number_is_not_the_best_for_ever(
    short: Build, short_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = loop.score_rows
    epochs: list[dict[str, float]] = []

    def scored(*given: Any, **how: Any) -> dict[str, float]:
        found = score(*given, **how)
        epochs.append(found | {"loss": math.nan} if not epochs else found)
        return epochs[-1]

    monkeypatch.setattr(loop, "score_rows", scored)
    config = short("fit.epochs=3", "fit.monitor=loss", "fit.patience=null")
    outcome = run(config, short_data, Worker(), score_test=False)
    assert outcome.progress.best == min(line["loss"] for line in epochs[1:])


def test_the_kept_weights_are_those_of_the_best_evaluation(
    short: Build, short_data: Dataset
) -> None:
    config = short("fit.epochs=12", "fit.monitor=loss", "fit.patience=null", "optim.lr=0.01")
    worker = Worker()
    outcome = run(config, short_data, worker)
    losses = [line["val"]["loss"] for line in worker.records]
    assert outcome.val["loss"] == min(losses)
    assert min(losses) < losses[-1], "the run must have become worse for this to show anything"
    reader = Evaluator(
        outcome.model,
        None,
        worker.device,
        batch_tokens=config.fit.batch_size * config.model.max_tokens,
        pad_id=short_data.tokenizer.pad_token_id,
    )
    logits = predict_rows(reader.outputs, outcome.model, short_data.splits["val"], worker)
    assert torch.equal(logits, outcome.val_logits)
    labels = torch.from_numpy(short_data.splits["val"].labels)
    assert score_rows(logits, labels) == outcome.val


def test_a_loss_that_is_not_finite_stops_the_run_with_what_to_change(
    quick: Build, data: Dataset
) -> None:
    with pytest.raises(
        RunError,
        match=r"diverged.* in step 2 .*on rows \d+.*small\.csv.*optim\.lr \(now 1e\+30\)",
    ):
        run(quick("optim.lr=1e30", "optim.warmup_steps=0"), data, Worker())


def test_scores_include_the_majority_baseline_of_the_same_rows(quick: Build, data: Dataset) -> None:
    outcome = run(quick("fit.epochs=1"), data, Worker())
    labels = data.splits["test"].labels
    for k, dimension in enumerate(DIMENSIONS):
        share = labels[:, k].mean()
        assert outcome.test[f"majority_{dimension.key}"] == pytest.approx(max(share, 1 - share))
    assert outcome.test["rows"] == len(labels)


def test_the_tokenizer_of_the_tiny_encoder_is_the_same_in_every_run(
    quick: Build, new_people: Path, tmp_path: Path
) -> None:
    config = quick(f"data.source={new_people}")
    texts = [prepare_dataset(config, tmp_path / name) for name in ("one", "other")]
    one, other = (d.tokenizer.backend_tokenizer.to_str() for d in texts)
    assert one == other


@pytest.mark.parametrize(
    "option", ["fit.gradient_checkpointing=true", "optim.layer_decay=0.999999"]
)
def test_options_that_save_memory_or_barely_change_learning_rates_train_the_same(
    short: Build, short_data: Dataset, plain: Outcome, option: str
) -> None:
    other = run(short("model.dropout=0", option), short_data, Worker())
    assert gap(weights(plain), weights(other)) < 1e-3


def test_a_metrics_record_reports_where_the_time_went(quick: Build, data: Dataset) -> None:
    worker = Worker()
    run(quick(), data, worker)
    speed = worker.records[-1]["speed"]
    assert speed["texts_s"] > 0
    assert speed["tokens_s"] > speed["texts_s"]
    assert 0 <= speed["padding"] < 0.2
    shares = [speed[f"share_{name}"] for name in ("data", "forward", "backward", "update")]
    assert all(share > 0 for share in shares)
    assert sum(shares) <= 1


class Interrupted(Worker):
    """A worker that is interrupted once, at its first poll."""

    def __init__(self, folder: Path, interruption: Interruption) -> None:
        super().__init__(folder=folder)
        self.interruptions: list[Interruption | None] = [interruption]

    def poll_interruption(self) -> Interruption | None:
        return self.interruptions.pop() if self.interruptions else None


def test_a_run_asked_to_stop_saves_a_checkpoint_and_resumes_as_if_never_stopped(
    short: Build, short_data: Dataset, tmp_path: Path
) -> None:
    config = short("fit.batch_size=4", "fit.epochs=1")
    uninterrupted = run(config, short_data, Worker())
    with pytest.raises(
        RunError, match=r"stopped as requested after step 20 of \d+; its checkpoint"
    ):
        run(config, short_data, Interrupted(tmp_path, Interruption.STOP))
    continued = run(config, short_data, Worker(folder=tmp_path))
    assert gap(weights(uninterrupted), weights(continued)) == 0.0
    saved = run(config, short_data, Interrupted(tmp_path / "saved", Interruption.SAVE))
    assert gap(weights(uninterrupted), weights(saved)) == 0.0
    kept = [p.name for p in (tmp_path / "saved" / "checkpoints").iterdir()]
    assert "step-0000020" in kept


def test_a_run_of_short_epochs_asked_to_stop_stops_after_one(
    short: Build, short_data: Dataset, tmp_path: Path
) -> None:
    splits = {n: s.take(np.arange(min(40, s.row_count))) for n, s in short_data.splits.items()}
    few = replace(short_data, splits=splits)
    # Five steps an epoch: all steps after which the ranks hear of each other are its last.
    config = short("fit.batch_size=8", "fit.accumulate=1", "fit.epochs=2")
    uninterrupted = run(config, few, Worker())
    with pytest.raises(RunError, match=r"stopped as requested after step 5 of 10"):
        run(config, few, Interrupted(tmp_path, Interruption.STOP))
    continued = run(config, few, Worker(folder=tmp_path))
    assert gap(weights(uninterrupted), weights(continued)) == 0.0
    assert [r["epoch"] for r in continued.progress.history] == [1, 2]
