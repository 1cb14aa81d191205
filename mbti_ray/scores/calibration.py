"""Fitted on the validation rows after training: temperatures and thresholds.

Shapes: R rows, S candidate slopes, C candidate thresholds, 4 dimensions (E/I, S/N, T/F, J/P).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mbti_ray.scores.bootstrap import Array

Objective = Literal["half", "accuracy", "balanced_accuracy", "f1"]

COLDEST, HOTTEST = 0.25, 10.0
# A number can be fitted to fewer rows, but it would not generalize.
MIN_ROWS = 10
_METRIC = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1": "macro_f1"}
# A slope needs more: it is compared with none on rows that it was not fitted to.
_MIN_SLOPE_PERSONS = 40
_FOLDS = 5
_SLOPES = np.linspace(-1, 1, 81)
# The standard deviation of the normal prior of a slope.
_PRIOR = 0.5
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


class LengthScaling(BaseModel):
    """How the temperature of each head changes with the tokens read.

    At n tokens it is `temperature * (n / reference) ** slope`, with n kept between `low` and
    `high`: beyond the texts that it was fitted to, nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    slope: Annotated[list[Annotated[float, Field(ge=-1, le=1)]], Field(min_length=4, max_length=4)]
    reference: Annotated[float, Field(gt=0)]
    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]

    def factors(self, tokens: Array) -> Array:
        """What the temperatures are multiplied by [R, 4] for texts of `tokens` [R]."""
        ratio = np.maximum(self.low, np.minimum(tokens, self.high)) / self.reference
        return np.asarray(ratio[:, None] ** np.array(self.slope))


@dataclass(frozen=True)
class Lengths:
    """Rows that were read to different lengths.

    Attributes:
        logits: Uncalibrated, [R, 4].
        labels: 1 where the label is the positive pole, [R, 4].
        tokens: Read of each row, [R].
        persons: Who wrote each row, any numbers, [R].
        is_whole: Whether a row was read as a whole, not only its beginning, [R].
    """

    logits: Array
    labels: NDArray[Any]
    tokens: Array
    persons: NDArray[Any]
    is_whole: NDArray[np.bool_]


def fit_length_scaling(rows: Lengths) -> LengthScaling | None:
    """The slopes by which temperatures follow the length of a text; None where they do not help.

    The temperature of whole rows stays that of `fit_temperature`, at the geometric mean of their
    lengths. There are slopes only if they lower the mean loss of held-out persons (five folds) over
    all heads by more than three standard errors, and do not raise that of their whole rows so far.
    """
    people, person = np.unique(rows.persons, return_inverse=True)
    if len(people) < _MIN_SLOPE_PERSONS or rows.tokens.min() == rows.tokens.max():
        return None
    reference = float(np.exp(np.log(rows.tokens[rows.is_whole]).mean()))
    log_ratio = np.log(rows.tokens / reference)
    fold = (np.random.default_rng(0).permutation(len(people)) % _FOLDS)[person]
    heads = range(rows.logits.shape[1])
    gain = np.mean([_gain_of_length(rows, k, log_ratio, fold) for k in heads], axis=0)
    everywhere, of_whole = (
        _mean_and_error(gain[members], rows.persons[members])
        for members in (np.full(len(gain), True), rows.is_whole)
    )
    if everywhere[0] <= 3 * everywhere[1] or of_whole[0] < -3 * of_whole[1]:
        return None
    everyone = np.full(len(fold), True)
    slope = [_fit_slope(rows, k, log_ratio, everyone)[1] for k in heads]
    low, high = float(rows.tokens.min()), float(rows.tokens.max())
    return LengthScaling(slope=slope, reference=reference, low=low, high=high)


def _fit_slope(
    rows: Lengths, k: int, log_ratio: Array, members: NDArray[np.bool_]
) -> tuple[float, float]:
    """The temperature of whole rows and the slope of head k, from some of the rows."""
    logit, label = rows.logits[:, k], rows.labels[:, k].astype(float)
    whole = members & rows.is_whole
    temperature = _temperature(logit[whole], label[whole])
    scaled = logit[members] * np.exp(-_SLOPES[:, None] * log_ratio[members]) / temperature
    losses = np.logaddexp(0, scaled) - label[members] * scaled
    persons = len(np.unique(rows.persons[members]))
    penalized = losses.mean(1) + _SLOPES**2 / (2 * _PRIOR**2 * persons)
    return temperature, float(_SLOPES[penalized.argmin()])


def _gain_of_length(rows: Lengths, k: int, log_ratio: Array, fold: NDArray[Any]) -> Array:
    """How much lower the loss of each row is [R] with the slope that other persons' rows give."""
    logit, label = rows.logits[:, k], rows.labels[:, k].astype(float)
    gain = np.zeros(len(logit))
    for held_out in range(_FOLDS):
        temperature, slope = _fit_slope(rows, k, log_ratio, fold != held_out)
        plain = logit / temperature
        scaled = plain * np.exp(-slope * log_ratio)
        change = np.logaddexp(0, plain) - np.logaddexp(0, scaled) - label * (plain - scaled)
        gain = np.where(fold == held_out, change, gain)
    return gain


def _mean_and_error(values: Array, persons: NDArray[Any]) -> tuple[float, float]:
    """The mean over persons, and its standard error."""
    _, person = np.unique(persons, return_inverse=True)
    means = np.bincount(person, values) / np.bincount(person)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


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
    # Here, because it imports torch: a manifest is read, and may be refused, without.
    from mbti_ray.scores.metrics import metrics_of_confusion

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
