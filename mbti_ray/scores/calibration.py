"""What is fitted on validation rows after training: temperatures, thresholds, and abstention.

Knows nothing of models or files: logits or probabilities and labels go in, four numbers come out.

Shapes: R rows, C candidate thresholds, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbti_ray.scores.metrics import Array, confusion_scores

Objective = Literal["half", "accuracy", "balanced_accuracy", "f1"]

COLDEST, HOTTEST = 0.25, 10.0
# One number can be fitted to fewer rows, but it would say nothing about others.
MIN_ROWS = 10
_METRIC = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1": "macro_f1"}
# Halvings of the range of 1/T, after which it is known to the last digit.
_HALVINGS = 60
# Scores that differ by rounding only are equal.
_ROUNDING = 1e-12


def fit_temperature(logits: Array, labels: NDArray[Any]) -> list[float]:
    """The temperature T of each head, for logits [R, 4] divided by it (Guo et al. 2017).

    It minimises the negative log-likelihood of `sigmoid(logit / T)` within [0.25, 10]. A head
    stays at 1.0 where the labels are constant, there are below 10 rows, or nothing is to be
    gained: the logits are all 0, or so large and right that they lose nothing.
    """
    return [_temperature(logits[:, k], labels[:, k].astype(float)) for k in range(logits.shape[1])]


def _temperature(logit: Array, label: Array) -> float:
    if len(label) < MIN_ROWS or label.min() == label.max() or _slope(logit, label, 1.0) == 0:
        return 1.0
    # The likelihood is convex in 1/T, so its slope crosses 0 once at the most.
    low, high = 1 / HOTTEST, 1 / COLDEST
    if _slope(logit, label, low) >= 0:
        return HOTTEST
    if _slope(logit, label, high) <= 0:
        return COLDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _slope(logit, label, middle) < 0:
            low = middle
        else:
            high = middle
    return 2 / (low + high)


def _slope(logit: Array, label: Array, inverse: float) -> float:
    """The derivative of the mean negative log-likelihood by 1/T."""
    # tanh instead of exp: no logit is too large for it.
    probability = (1 + np.tanh(logit * inverse / 2)) / 2
    return float(((probability - label) * logit).mean())


def fit_thresholds(probabilities: Array, labels: NDArray[Any], objective: Objective) -> list[float]:
    """The threshold of each head above which an answer is the positive pole, within (0, 1).

    Tried are 0.5 and the midpoints between neighbouring probabilities [R, 4]; of the best the one
    nearest to 0.5, of two equally near the lower. "f1" is macro F1. Constant labels keep 0.5.
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
    # The midpoint of 1 and the number before it is 1, and no probability is above that.
    candidates = np.sort(candidates[(candidates > 0) & (candidates < 1)])
    scores = confusion_scores(_cells_at(candidates, probability, label))[metric]
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
    """Which answers [R, 4] are X: their probability is nearer than `band` to its threshold."""
    return np.asarray(np.abs(probabilities - thresholds) < band)
