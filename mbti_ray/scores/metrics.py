"""Metrics of four binary answers, and how far they would vary with other people.

Rows of one person are not independent, so persons are what is resampled. Everything but AUROC is
made of sums per person: a bootstrap is then the product of how often each person was drawn [B, G]
and these sums [G, k]. AUROC is counted anew from weighted ranks. Knows nothing of models, of
files, or of what the figures are shown beside.

Shapes: R rows, G persons, B resamples, k figures, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.typology import DIMENSIONS

Array = NDArray[np.float64]
Interval = dict[str, float | None]
# Figures [B, k] by name, for B rows of how often each person counts [B, G].
Statistic = Callable[[Array], dict[str, Array]]

BINS = 15
LEVEL = 0.95
RATES = (*(d.key for d in DIMENSIONS), "accuracy", "all_four", "at_least_three")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "brier", "ece")

# The order in which the sums of a person and a dimension stand: the four cells of the confusion
# table (tp, fn, fp, tn), the squared error, and the gap of each reliability bin.
_CELLS = 4
# Resamples are worked on in portions of this many cells B x R: 1.6 MB a copy, some 20 in all.
_PORTION = 200_000
# Flips of signs: all of them up to so many, beyond that so many random ones.
_EXACT_AT_MOST = 10_000
_FLIPS = 10_000


@dataclass(frozen=True)
class Estimate:
    """Figures [k] of all rows and of every resample [B, k]; the latter may be NaN."""

    value: Array
    draws: Array

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference within each resample: both sides must come from one bootstrap."""
        return Estimate(self.value - other.value, self.draws - other.draws)

    def mean(self) -> "Estimate":
        """The mean of the figures, as one figure; undefined where one of them is."""
        return Estimate(self.value.mean(keepdims=True), self.draws.mean(1, keepdims=True))

    def interval(self, place: int) -> Interval | None:
        """Value, low and high of one figure, or None where it is undefined.

        Percentiles of the resamples in which the figure is defined. They are somewhat narrow with
        few persons (below some 30), as every percentile bootstrap.
        """
        value = float(self.value[place])
        if np.isnan(value):
            return None
        draws = self.draws[:, place]
        draws = draws[~np.isnan(draws)]
        if not len(draws):
            return {"value": value, "low": None, "high": None}
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(draws, [tail, 100 - tail])
        return {"value": value, "low": float(low), "high": float(high)}


def bootstrap(
    statistic: Statistic, *, rows: int, groups: int, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Every figure of a statistic for all persons once, and for persons drawn with replacement.

    The draws depend on the seed and the number of persons only, and are the same for all figures.
    """
    whole = statistic(np.ones((1, groups)))
    drawn = [statistic(weights) for weights in _drawn_persons(rows, groups, resamples, seed)]
    return {
        name: Estimate(figures[0], np.concatenate([figures[:0], *(d[name] for d in drawn)]))
        for name, figures in whole.items()
    }


def _drawn_persons(rows: int, groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each person was drawn, [b, G] at a time."""
    # One stream of numbers, whatever the portions: they leave no trace in the figures.
    generator = np.random.default_rng(seed)
    at_once = max(1, _PORTION // rows)
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = generator.integers(0, groups, (count, groups))
        drawn += np.arange(count)[:, None] * groups
        times = np.bincount(drawn.ravel(), minlength=count * groups)
        yield times.reshape(count, groups).astype(float)


def metrics_of(
    probabilities: Array, labels: NDArray[Any], thresholds: Array, persons: NDArray[Any]
) -> Statistic:
    """The METRICS of rows [R, 4] as figures [B, 4] of how often each person 0..G-1 counts.

    They are scikit-learn's: balanced_accuracy_score, f1_score(average="macro"),
    matthews_corrcoef (0 where it is undefined), roc_auc_score (NaN where there is one class only)
    and brier_score_loss. `ece` is the expected calibration error of Guo et al. 2017 for the
    probability of the positive pole instead of the confidence in the answer: over 15 bins of
    equal width, the mean of |mean probability - share of positives|, weighted by rows.
    """
    labels = labels.astype(np.int64)
    groups = int(persons.max()) + 1
    given = probabilities > thresholds
    tables = [
        _sums(probabilities[:, k], labels[:, k], given[:, k], persons, groups) for k in range(4)
    ]
    width = tables[0].shape[1]
    sums = np.concatenate(tables, axis=1)
    rankings = [Ranking.of(probabilities[:, k], labels[:, k], persons) for k in range(4)]

    def statistic(weights: Array) -> dict[str, Array]:
        figures = _scores_of_sums((weights @ sums).reshape(len(weights), 4, width))
        figures["auroc"] = np.stack([ranking.auroc(weights) for ranking in rankings], axis=1)
        return figures

    return statistic


def bin_of(probabilities: Array) -> NDArray[np.int64]:
    """The reliability bin 0..14 of each probability; 1.0 is in the last."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def confusion(given: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The cell of each answer: 0 tp, 1 fn, 2 fp, 3 tn."""
    return 2 * (1 - labels.astype(np.int64)) + (1 - given.astype(np.int64))


def _sums(
    probability: Array,
    label: NDArray[Any],
    given: NDArray[Any],
    persons: NDArray[Any],
    groups: int,
) -> Array:
    """Sums of one dimension for each person, [G, 4 + 1 + 15]."""
    gap = probability - label
    cells = np.bincount(persons * _CELLS + confusion(given, label), minlength=groups * _CELLS)
    squares = np.bincount(persons, gap**2, minlength=groups)
    gaps = np.bincount(persons * BINS + bin_of(probability), gap, minlength=groups * BINS)
    return np.column_stack(
        [cells.reshape(groups, _CELLS).astype(float), squares, gaps.reshape(groups, BINS)]
    )


def _scores_of_sums(sums: Array) -> dict[str, Array]:
    """All metrics but AUROC of sums [..., 4 + 1 + 15]."""
    cells, squares, gaps = sums[..., :_CELLS], sums[..., _CELLS], sums[..., _CELLS + 1 :]
    rows = cells.sum(-1)
    return {
        **confusion_scores(cells),
        "brier": squares / rows,
        "ece": np.abs(gaps).sum(-1) / rows,
    }


def confusion_scores(cells: Array) -> dict[str, Array]:
    """accuracy, balanced_accuracy, macro_f1 and mcc of counts [..., 4] of tp, fn, fp, tn.

    A class that is not there does not count: in balanced accuracy one without rows, in macro F1
    one that has no rows and was never given.
    """
    tp, fn, fp, tn = np.moveaxis(cells, -1, 0)
    positive, negative, given, withheld = tp + fn, fp + tn, tp + fp, fn + tn
    recalls = _share(tp, positive) + _share(tn, negative)
    f1 = _share(2 * tp, positive + given) + _share(2 * tn, negative + withheld)
    classes = 2 - (positive + given == 0) - (negative + withheld == 0)
    spread = np.sqrt(positive * negative) * np.sqrt(given * withheld)
    return {
        "accuracy": (tp + tn) / (positive + negative),
        "balanced_accuracy": recalls / (2 - (positive == 0) - (negative == 0)),
        "macro_f1": f1 / classes,
        "mcc": _share(tp * tn - fp * fn, spread),
    }


def _share(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where there is no whole."""
    share = np.zeros_like(whole, dtype=float)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


@dataclass(frozen=True)
class Ranking:
    """The rows of one dimension [R] in the order of their probability.

    Attributes:
        persons: Whose row it is.
        positive: 1.0 where the label is.
        starts: Where each run of equal probabilities begins, or None where there are no ties.
    """

    persons: NDArray[np.int64]
    positive: Array
    starts: NDArray[np.int64] | None

    @classmethod
    def of(cls, probability: Array, label: NDArray[Any], persons: NDArray[Any]) -> "Ranking":
        order = np.argsort(probability, kind="stable")
        ordered = probability[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        return cls(
            persons=persons[order].astype(np.int64),
            positive=label[order].astype(float),
            starts=starts if len(starts) < len(order) else None,
        )

    def auroc(self, weights: Array) -> Array:
        """AUROC [B] of persons weighted by [B, G]: a tie counts half; NaN without two classes."""
        of_row = weights[:, self.persons]
        positive = of_row * self.positive
        negative = of_row - positive
        if self.starts is not None:
            positive = np.add.reduceat(positive, self.starts, axis=1)
            negative = np.add.reduceat(negative, self.starts, axis=1)
        below = np.cumsum(negative, axis=1)
        pairs = positive.sum(1) * below[:, -1]
        below -= negative / 2
        won = np.einsum("br,br->b", positive, below)
        share = np.full(len(pairs), np.nan)
        np.divide(won, pairs, out=share, where=pairs > 0)
        return share


def rates_of(right: NDArray[np.bool_], persons: NDArray[Any]) -> Callable[[Array], Array]:
    """The RATES [B, 7] of rows answered right or not [R, 4], for persons weighted by [B, G]."""
    counts = right_sums(right, persons)
    rows = np.bincount(persons).astype(float)

    def rates(weights: Array) -> Array:
        return np.asarray((weights @ counts) / (weights @ rows)[:, None])

    return rates


def right_sums(right: NDArray[np.bool_], persons: NDArray[Any]) -> Array:
    """The RATES of each person, not yet divided by the rows: [G, 7]."""
    dimensions = right.sum(1)
    columns = [*right.T, dimensions / len(DIMENSIONS), dimensions == 4, dimensions >= 3]
    return np.stack([np.bincount(persons, column) for column in columns], axis=1)


def sign_flip_p(differences: Array, *, seed: int) -> Array:
    """Two-sided p [k] that differences [G, k], summed per person, are no more than chance.

    If two answerers are equally good, then the difference of a person could as well have had the
    other sign. A flip turns all rows of a person at once, since they are not independent: flips of
    single rows (McNemar's test) would take one prolific author for so many witnesses. All flips
    are tried where they are at most 10,000, the unchanged one among them; else 10,000 random
    ones, with the correction (hits + 1) / (flips + 1) of Phipson and Smyth 2010.
    """
    # Persons without a difference look the same however they are flipped.
    differences = differences[differences.any(1)]
    groups = len(differences)
    if 2**groups <= _EXACT_AT_MOST:
        flips = np.arange(2**groups)[:, None] >> np.arange(groups) & 1
        return np.asarray(_reached(flips, differences, differences) / 2**groups)
    # Persons with the same differences are as many coins: only how many turn over matters.
    distinct, persons = np.unique(differences, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    hits = np.zeros(differences.shape[1])
    at_once = max(1, _PORTION // len(distinct))
    for start in range(0, _FLIPS, at_once):
        size = (min(at_once, _FLIPS - start), len(distinct))
        hits += _reached(generator.binomial(persons, 0.5, size), differences, distinct)
    return (hits + 1) / (_FLIPS + 1)


def _reached(flipped: NDArray[Any], differences: Array, distinct: Array) -> Array:
    """How often [k] a sum is as far from 0 as that of the differences [G, k] unchanged.

    Of n trials in which so many persons of each distinct difference [D, k] are flipped: [n, D].
    """
    # Counts, and quarters of counts, add up exactly: no tolerance is needed.
    observed = differences.sum(0)
    sums = observed - 2 * (flipped.astype(float) @ distinct)
    return np.asarray((np.abs(sums) >= np.abs(observed)).sum(0), dtype=float)
