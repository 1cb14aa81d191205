"""Fitted on the validation rows after training: temperatures and thresholds; and abstention.

Must not know models or files: logits or probabilities and labels go in, four numbers come out.

Shapes: R rows, C candidate thresholds, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbti_ray.scores.bootstrap import Array
from mbti_ray.scores.metrics import metrics_of_confusion

Objective = Literal["half", "accuracy", "balanced_accuracy", "f1"]

COLDEST, HOTTEST = 0.25, 10.0
# A number can be fitted to fewer rows, but it would not generalize.
MIN_ROWS = 10
_METRIC = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1": "macro_f1"}
# Bisections of the range of 1/T, after which it is known to the last digit.
_BISECTIONS = 60
# Scores that differ by rounding only are equal.
_ROUNDING = 1e-12


def fit_temperature(logits: Array, labels: NDArray[Any]) -> list[float]:
    """The temperature T of each head, for logits [R, 4] divided by it (Guo et al. 2017).

    It minimizes the negative log-likelihood of `sigmoid(logit / T)` within [0.25, 10]. A head
    stays at 1.0 where the labels are constant, there are fewer than 10 rows, or the loss has no
    slope: the logits are all 0, or so large and correct that the loss is 0.
    """
    return [_temperature(logits[:, k], labels[:, k].astype(float)) for k in range(logits.shape[1])]


def _temperature(logit: Array, label: Array) -> float:
    if len(label) < MIN_ROWS or label.min() == label.max() or _slope(logit, label, 1.0) == 0:
        return 1.0
    # The loss is convex in 1/T, so its slope crosses 0 at most once.
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(logit, label, low) >= 0:
        return HOTTEST
    if _slope(logit, label, high) <= 0:
        return COLDEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _slope(logit, label, middle) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def _slope(logit: Array, label: Array, inverse: float) -> float:
    """The derivative of the mean negative log-likelihood with respect to 1/T."""
    # tanh instead of exp: it cannot overflow.
    probability = (1 + np.tanh(logit * inverse / 2)) / 2
    return float(((probability - label) * logit).mean())


def fit_thresholds(probabilities: Array, labels: NDArray[Any], objective: Objective) -> list[float]:
    """The threshold of each head above which the positive pole is predicted, within (0, 1).

    The candidates are 0.5 and the midpoints between neighboring probabilities [R, 4]. Of the best
    ones the nearest to 0.5 is taken, of two equally near the lower. "f1" is macro-F1. Constant
    labels keep 0.5.
    """
    heads = range(probabilities.shape[1])
    if objective == "half":
        return [0.5 for _ in heads]
    metric = _METRIC[objective]
    return [_threshold(probabilities[:, k], labels[:, k].astype(float), metric) for k in heads]


def _threshold(probability: Array, label: Array, metric: str) -> float:
    if not len(label) or label.min() == label.max():
        return 0.5
    distinct = np.unique(probability)
    candidates = np.r_[0.5, (distinct[1:] + distinct[:-1]) / 2]
    # The midpoint of 1 and the float below it is 1, and no probability is above that.
    candidates = np.sort(candidates[(candidates > 0) & (candidates < 1)])
    scores = metrics_of_confusion(_cells_at(candidates, probability, label))[metric]
    best = candidates[scores >= scores.max() - _ROUNDING]
    return float(best[np.abs(best - 0.5).argmin()])


def _cells_at(candidates: Array, probability: Array, label: Array) -> Array:
    """Counts [C, 4] of tp, fn, fp, tn at each threshold."""
    order = np.argsort(probability, kind="stable")
    positives = np.r_[0.0, np.cumsum(label[order])]
    below = np.searchsorted(probability[order], candidates, side="right")
    fn = positives[below]
    tp = positives[-1] - fn
    fp = len(label) - below - tp
    return np.stack([tp, fn, fp, below - fn], axis=1)


def abstained(probabilities: Array, thresholds: Array, band: float) -> NDArray[np.bool_]:
    """Which predictions [R, 4] are X: the probability is nearer than `band` to its threshold."""
    return np.asarray(np.abs(probabilities - thresholds) < band)
