"""Cross-fitting: the encoder's logits of the training rows, each from one not trained on it.

A stack must not learn from logits of rows that the encoder has seen, which are far surer than those
of new rows. Must not know what the logits are combined with.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mbti_ray.config import RunConfig, override
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Interruption, Worker

_FOLDS = 3


class _Silent(Worker):
    """A rank that keeps nothing, and stops when the run's own worker is asked to."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(device=worker.device)
        self._worker = worker

    def poll_interruption(self) -> Interruption | None:
        return self._worker.poll_interruption()

    def show_progress(self, done: int, total: int, note: str) -> None:
        self._worker.show_progress(done, total, f"cross-fitting: {note}")


def cross_fit_folds(persons: NDArray[Any], *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Ascending rows of three parts of the training split (two of two people), a person in one."""
    people, person = np.unique(persons, return_inverse=True)
    folds = min(_FOLDS, len(people))
    part = np.random.default_rng(seed).permutation(len(people)) % folds
    for fold in range(folds):
        yield np.flatnonzero(part[person] == fold)


def cross_fit(
    config: RunConfig, data: Dataset, worker: Worker, *, epochs: int
) -> NDArray[np.float64] | None:
    """Logits [R, 4] of the training rows, from three runs on two thirds of them.

    None where `model.reader` has no stack.

    Called by every rank. The runs have the settings of the main one, and as many epochs as its best
    epoch: none is chosen on the rows that they predict.
    """
    if not (config.model.has_encoder and config.model.has_tfidf):
        return None
    train = data.splits["train"]
    logits = np.zeros((train.row_count, 4))
    config = override(config, {"fit.epochs": max(1, epochs), "fit.patience": None})
    for fold in cross_fit_folds(train.persons, seed=config.seed):
        rest = train.take(np.setdiff1d(np.arange(train.row_count), fold))
        held_out = train.take(fold)
        # Validation scores select nothing here: one row keeps them cheap.
        splits = {"train": rest, "val": held_out.take(np.arange(1)), "test": held_out}
        outcome = run(config, replace(data, splits=splits), _Silent(worker), keeps_last_epoch=True)
        logits[fold] = outcome.test_logits.to(torch.float64).numpy()
    return logits
