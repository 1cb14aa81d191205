"""The learning curves of a run: what the metrics of an epoch mean for each dimension.

Two epochs matter: the *last*, where training ended, and the *best*, whose weights are kept.
Training accuracies are running means over an epoch's windows with dropout on, and so lower than
what the weights at its end would score: a gap that shows up is real. Must not know findings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.config import RunConfig, get_value
from mbti_ray.scores.findings import Tries
from mbti_ray.typology import DIMENSIONS, Dimension

# The seed's "both low" is 0.60 in training and 0.58 in validation. Training accuracy is measured as
# a gain: the share of the majority class's errors that is gone, so that 0.88 means little where
# 86 % are N; 0.60 in a balanced dimension is a gain of 0.20. Validation is measured as balanced
# accuracy, which stays meaningful where loss weights trade accuracy for it.
LOW_GAIN = 0.25
LOW_BALANCED = 0.60
# Below this balanced accuracy a dimension is not told apart better than by chance, up to noise.
_FLAT_BALANCED = 0.55
# The one-sided 5 % point of the normal distribution; and two standard errors.
_CHANCE_Z = 1.64
_GAP_Z = 2.0
# An AUROC from which on a dimension is ranked well, where the rows are many.
_WELL_RANKED = 0.75
# A warm-up longer than this share of the run is long.
_WARMUP_SHARE = 0.5


@dataclass(frozen=True)
class Epoch:
    """The metrics record of an epoch, and what its metrics mean."""

    record: Mapping[str, Any]

    @property
    def number(self) -> int:
        return int(self.record["epoch"])

    @property
    def loss(self) -> float:
        return float(self.record["val"]["loss"])

    def train(self, name: str) -> float:
        return float(self.record["train"][name])

    def val(self, name: str) -> float:
        return float(self.record["val"][name])

    def judged(self) -> list[Dimension]:
        """The dimensions that can be judged: the validation rows have both poles."""
        return [d for d in DIMENSIONS if self.val(f"majority_{d.key}") < 1]

    def gain(self, key: str) -> float:
        """Share of the majority class's errors that training has removed; at most 1.

        The majority class is that of the training rows: validation may have other shares.
        """
        majority = self.train(f"majority_{key}")
        return (self.train(f"acc_{key}") - majority) / (1 - majority) if majority < 1 else 0.0

    def gap(self, key: str) -> float:
        """How far training accuracy is above validation accuracy; 0 where that may be noise."""
        accuracy = self.val(f"acc_{key}")
        # For the mean, the four predictions of a row count as one, which is conservative.
        error = math.sqrt(max(0.0, accuracy * (1 - accuracy)) / self.val("rows"))
        gap = self.train(f"acc_{key}") - accuracy
        return gap if gap > _GAP_Z * error else 0.0

    def is_flat(self, key: str, limit: float = _FLAT_BALANCED) -> bool:
        """Whether random predictions with the same share of positives could score as well."""
        rows, positive = self.val("rows"), self.val(f"positive_{key}")
        given = self.val(f"given_{key}")
        poles = 1 / (rows * positive) + 1 / (rows * (1 - positive))
        chance = _CHANCE_Z * 0.5 * math.sqrt(max(0.0, given * (1 - given)) * poles)
        return self.val(f"bal_{key}") < max(limit, 0.5 + chance)

    def auroc(self, key: str) -> float | None:
        """Of the validation rows; None where they have one pole only."""
        value = self.record["val"].get(f"auroc_{key}")
        return None if value is None else float(value)

    def is_well_ranked(self, key: str) -> bool:
        """Whether the logits separate the poles, wherever the threshold is, beyond chance."""
        auroc, rows = self.auroc(key), self.val("rows")
        if auroc is None:
            return False
        positive = self.val(f"positive_{key}")
        # The standard deviation of the Mann-Whitney statistic under the null.
        spread = math.sqrt((rows + 1) / (12 * positive * (1 - positive))) / rows
        return auroc >= max(_WELL_RANKED, 0.5 + _CHANCE_Z * spread)

    def is_low(self) -> bool:
        """Whether no dimension is learned, neither in training nor in validation."""
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
        """The epoch whose weights are kept; of equal ones the first, as in the engine."""
        sign = 1 if self.config.fit.monitor_mode == "min" else -1
        return min(self.epochs, key=lambda e: sign * e.val(self.config.fit.monitor))

    @property
    def lowest_loss(self) -> Epoch:
        return min(self.epochs, key=lambda e: e.loss)

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of all epochs of the config, whether or not the run stopped early."""
        steps = int(self.last.record["step"])
        return round(steps / self.last.number * self.config.fit.epochs)

    @property
    def warmup(self) -> int:
        return self.config.optim.warmup_of(self.planned_steps)

    @property
    def has_long_warmup(self) -> bool:
        return self.warmup > _WARMUP_SHARE * self.planned_steps

    def tries(self, values: Mapping[str, Any]) -> Tries:
        """Those of the values that differ from the current ones."""
        return {a: value for a, value in values.items() if value != get_value(self.config, a)}
