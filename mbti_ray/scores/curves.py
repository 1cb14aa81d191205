"""The curves of a run, read: what a reported line means for each dimension, and of which epoch.

Two epochs are looked at: the *last*, where training ended, and the *best*, whose weights are kept.
Training accuracies are running means over an epoch's windows with dropout on: they come out below
what the weights at its end would score, so a gap that shows is there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.config import RunConfig, get_value
from mbti_ray.scores.findings import Tries
from mbti_ray.typology import DIMENSIONS, Dimension

# The seed's "both low" is 0.60 in training and 0.58 in validation. Training accuracy is read as a
# gain, the share removed of the errors that the commonest answer makes, so that 0.88 counts for as
# little where 86 % are N; 0.60 of an even dimension is a gain of 0.20. Validation is read as
# balanced accuracy, which is right also where weights trade accuracy for it.
LOW_GAIN = 0.25
LOW_BALANCED = 0.60
# Balanced accuracy of a dimension that tells its poles no better than a coin, up to noise.
_FLAT_BALANCED = 0.55
# One-sided 5 % point: how far a coin gets by luck on so many rows; and two standard errors.
_LUCK = 1.64
_SURE = 2.0
# A warm-up longer than this share of the run is long.
_WARMUP_SHARE = 0.5


@dataclass(frozen=True)
class Epoch:
    """A reported line, with what its figures mean."""

    line: Mapping[str, Any]

    @property
    def number(self) -> int:
        return int(self.line["epoch"])

    @property
    def loss(self) -> float:
        return float(self.line["val"]["loss"])

    def train(self, name: str) -> float:
        return float(self.line["train"][name])

    def val(self, name: str) -> float:
        return float(self.line["val"][name])

    def judged(self) -> list[Dimension]:
        """The dimensions of which the validation rows have both poles."""
        return [d for d in DIMENSIONS if self.val(f"majority_{d.key}") < 1]

    def gain(self, key: str) -> float:
        """Share of the commonest answer's errors that training has removed; at most 1.

        Of the training rows' own commonest answer: other people may have other shares.
        """
        majority = self.train(f"majority_{key}")
        return (self.train(f"acc_{key}") - majority) / (1 - majority) if majority < 1 else 0.0

    def gap(self, key: str) -> float:
        """How far training accuracy lies above validation accuracy, beyond noise."""
        accuracy = self.val(f"acc_{key}")
        # For the mean, the four answers of a row count as one: the cautious side.
        error = math.sqrt(max(0.0, accuracy * (1 - accuracy)) / self.val("rows"))
        gap = self.train(f"acc_{key}") - accuracy
        return gap if gap > _SURE * error else 0.0

    def is_flat(self, key: str, limit: float = _FLAT_BALANCED) -> bool:
        """Whether the balanced accuracy is one that a coin of the same bias could reach."""
        rows, positive = self.val("rows"), self.val(f"positive_{key}")
        given = self.val(f"given_{key}")
        poles = 1 / (rows * positive) + 1 / (rows * (1 - positive))
        luck = _LUCK * 0.5 * math.sqrt(max(0.0, given * (1 - given)) * poles)
        return self.val(f"bal_{key}") < max(limit, 0.5 + luck)

    def is_low(self) -> bool:
        """Whether nothing is learned in any dimension, neither in training nor in validation."""
        judged = self.judged()
        return bool(judged) and all(
            self.gain(d.key) < LOW_GAIN and self.is_flat(d.key, LOW_BALANCED) for d in judged
        )


@dataclass(frozen=True)
class Curves:
    """A run's epochs under its config."""

    config: RunConfig
    epochs: Sequence[Epoch]

    @property
    def last(self) -> Epoch:
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept; of equal ones the first, as the engine does it."""
        sign = 1 if self.config.fit.monitor_mode == "min" else -1
        return min(self.epochs, key=lambda e: sign * e.val(self.config.fit.monitor))

    @property
    def lowest_loss(self) -> Epoch:
        return min(self.epochs, key=lambda e: e.loss)

    @property
    def steps(self) -> int:
        return int(self.last.line["step"])

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of all epochs of the config, whether or not the run stopped early."""
        return round(self.steps / self.last.number * self.config.fit.epochs)

    @property
    def has_long_warmup(self) -> bool:
        return self.config.optim.warmup_steps > _WARMUP_SHARE * self.planned_steps

    def tries(self, values: Mapping[str, Any]) -> Tries:
        """Those values that are other than the present ones."""
        return {a: value for a, value in values.items() if value != get_value(self.config, a)}
