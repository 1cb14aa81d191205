"""Metrics of four binary predictions: the scores of every epoch, and those of the scorecard.

The scorecard's metrics are computed from sums per person, so that they can be resampled; AUROC is
recomputed from weighted ranks. Shapes: R rows, G persons, B resamples, 4 dimensions in the order
E/I, S/N, T/F, J/P. Must not know models, files or ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbti_ray.scores.bootstrap import Array, Statistic
from mbti_ray.typology import DIMENSIONS

# By name, as in scores.json and metrics.jsonl: acc_ei, majority_ei, bal_mean, ...
Scores = dict[str, float]

BINS = 15
RATES = (*(d.key for d in DIMENSIONS), "accuracy", "all_four", "at_least_three")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "brier", "ece")

# Of a confusion matrix: tp, fn, fp, tn.
_CELLS = 4


@dataclass(frozen=True)
class Scored:
    """Evaluated rows.

    Attributes:
        probabilities: Of the positive poles, calibrated, [R, 4].
        labels: 1 where the label is the positive pole, [R, 4].
        thresholds: Above them the positive pole is predicted, [4]; of several runs [R, 4].
        persons: Who wrote each row, any numbers, [R].
        abstain: Half the width of the band around a threshold in which X is predicted.
        tokens: Read of each row, [R].
    """

    probabilities: Array
    labels: NDArray[Any]
    thresholds: Array
    persons: NDArray[Any]
    abstain: float = 0.0
    tokens: NDArray[np.int64] | None = None

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """The forced predictions [R, 4]: an X counts as what it would have been."""
        return np.asarray(self.probabilities > self.thresholds)

    @property
    def unanswered(self) -> NDArray[np.bool_]:
        """Which letters [R, 4] are X: the probability is nearer to its threshold than `abstain`."""
        return np.asarray(np.abs(self.probabilities - self.thresholds) < self.abstain)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.labels.astype(bool))


def score_rows(
    logits: Tensor,
    labels: Tensor,
    thresholds: Tensor | float = 0.5,
    *,
    shares: Tensor | None = None,
) -> Scores:
    """Scores of row logits [R, 4] against 0/1 labels [R, 4], in double precision.

    - `loss`: the plain mean binary cross-entropy over the four dimensions, whatever the training
      loss was, so that runs with different weights can be compared.
    - `brier`: mean squared error of the probabilities.
    - `acc_x`: accuracy of dimension x (ei, sn, tf, jp); `acc_total` counts rows with all four
      correct.
    - `majority_x`: what always predicting the majority class of these very rows would score.
    - `bal_x`: balanced accuracy, the mean recall of the two poles (of one, where the rows have
      one pole only).
    - `f1_x`: macro-F1, the mean F1 of the two poles.
    - `auroc_x`: area under the ROC curve; missing where the rows have one pole only.
    - `positive_x`, `given_x`: share of rows whose label, and whose prediction, is the positive
      pole.
    - `acc_mean`, `majority_mean`, `bal_mean`, `f1_mean`: means over the four dimensions.
    - `rows`: their number.
    - `brier_shares`, `rmse_shares`: mean squared error of the probabilities against soft labels
      [R, 4], and its root; only where rows have them (the others are NaN).
    """
    labels = labels.to(logits.device)
    given = (torch.sigmoid(logits) > thresholds).cpu().numpy()
    losses = binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="none")
    squares = (logits.double().sigmoid() - labels.double()).square()
    actual, ranked = labels.cpu().numpy() >= 0.5, logits.double().cpu().numpy()
    rows, nobody = len(actual), np.zeros(len(actual), np.int64)
    of_cells = metrics_of_confusion(cells_by_person(given, actual, nobody).reshape(4, _CELLS))
    positive = actual.mean(0)
    scores: Scores = {
        "loss": float(losses.mean(1).sum()) / rows,
        "brier": float(squares.mean(1).sum()) / rows,
        "rows": float(rows),
        "acc_total": float((given == actual).all(1).mean()),
        "majority_total": float(np.bincount(actual @ (8, 4, 2, 1)).max()) / rows,
    }
    for name, values in {
        "acc": of_cells["accuracy"],
        "majority": np.maximum(positive, 1 - positive),
        "bal": of_cells["balanced_accuracy"],
        "f1": of_cells["macro_f1"],
        "positive": positive,
        "given": given.mean(0),
    }.items():
        scores |= {f"{name}_{d.key}": float(values[k]) for k, d in enumerate(DIMENSIONS)}
        if name not in ("positive", "given"):
            scores[f"{name}_mean"] = float(values.mean())
    for k, d in enumerate(DIMENSIONS):
        if 0 < positive[k] < 1:
            ranking = Ranking.of(ranked[:, k], actual[:, k], nobody)
            scores[f"auroc_{d.key}"] = float(ranking.auroc(np.ones((1, 1)))[0])
    if shares is not None and (is_given := ~shares.isnan()).any():
        gaps = logits.double().sigmoid() - shares.to(logits.device).double()
        scores["brier_shares"] = float(gaps[is_given].square().mean())
        scores["rmse_shares"] = scores["brier_shares"] ** 0.5
    return scores


def metrics_by_person(
    probabilities: Array, labels: NDArray[Any], thresholds: Array, persons: NDArray[Any]
) -> Statistic:
    """The METRICS of rows [R, 4], as values [B, 4] given how often each person 0..G-1 counts.

    They are scikit-learn's: balanced_accuracy_score, f1_score(average="macro"),
    matthews_corrcoef (0 where it is undefined), roc_auc_score (NaN where there is one class only)
    and brier_score_loss. `ece` is the expected calibration error of Guo et al. 2017 for the
    probability of the positive pole instead of the confidence in the prediction: over 15 bins of
    equal width, the mean of |mean probability - share of positives|, weighted by rows.
    """
    bins = persons[:, None] * BINS + reliability_bin(probabilities)
    gaps = (probabilities - labels).T
    gap_sums = [
        np.bincount(b, g, (persons.max() + 1) * BINS) for b, g in zip(bins.T, gaps, strict=True)
    ]
    of_bins = np.concatenate([sums.reshape(-1, BINS) for sums in gap_sums], axis=1)
    cells = cells_by_person(probabilities > thresholds, labels, persons)
    squares = squares_by_person(probabilities, labels, persons)
    rankings = [Ranking.of(probabilities[:, k], labels[:, k], persons) for k in range(4)]

    def statistic(weights: Array) -> dict[str, Array]:
        confusion = (weights @ cells).reshape(-1, 4, _CELLS)
        rows = confusion.sum(-1)
        return {
            **metrics_of_confusion(confusion),
            "brier": weights @ squares / rows,
            "ece": np.abs((weights @ of_bins).reshape(-1, 4, BINS)).sum(-1) / rows,
            "auroc": np.stack([ranking.auroc(weights) for ranking in rankings], axis=1),
        }

    return statistic


def reliability_bin(probabilities: Array) -> NDArray[np.int64]:
    """The reliability bin 0..14 of each probability; 1.0 falls into the last."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def confusion_cells(predicted: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The cell of each prediction in the confusion matrix: 0 tp, 1 fn, 2 fp, 3 tn."""
    return 2 * (1 - labels.astype(np.int64)) + (1 - predicted.astype(np.int64))


def metrics_of_confusion(cells: Array) -> dict[str, Array]:
    """accuracy, balanced_accuracy, macro_f1 and mcc of counts [..., 4] of tp, fn, fp, tn.

    An absent class does not count: in balanced accuracy one without rows, in macro-F1 one that has
    no rows and was never predicted.
    """
    tp, fn, fp, tn = np.moveaxis(cells, -1, 0)
    positive, negative = tp + fn, fp + tn
    predicted_positive, predicted_negative = tp + fp, fn + tn
    recalls = _ratio(tp, positive) + _ratio(tn, negative)
    f1 = _ratio(2 * tp, positive + predicted_positive)
    f1 = f1 + _ratio(2 * tn, negative + predicted_negative)
    classes = 2 - (positive + predicted_positive == 0) - (negative + predicted_negative == 0)
    spread = np.sqrt(positive * negative) * np.sqrt(predicted_positive * predicted_negative)
    return {
        "accuracy": (tp + tn) / (positive + negative),
        "balanced_accuracy": recalls / (2 - (positive == 0) - (negative == 0)),
        "macro_f1": f1 / classes,
        "mcc": _ratio(tp * tn - fp * fn, spread),
    }


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where the whole is 0."""
    ratio = np.zeros_like(whole, dtype=float)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


@dataclass(frozen=True)
class Ranking:
    """The rows of one dimension [R], sorted by probability; `starts` are those of equal ones."""

    persons: NDArray[np.int64]
    positive: Array
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, probability: Array, label: NDArray[Any], persons: NDArray[Any]) -> "Ranking":
        order = np.argsort(probability, kind="stable")
        ordered = probability[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        return cls(persons[order].astype(np.int64), label[order].astype(float), starts)

    def auroc(self, weights: Array) -> Array:
        """AUROC [B] of persons weighted by [B, G]: a tie counts half; NaN without two classes."""
        of_row = weights[:, self.persons]
        positive = np.add.reduceat(of_row * self.positive, self.starts, axis=1)
        negative = np.add.reduceat(of_row * (1 - self.positive), self.starts, axis=1)
        below = np.cumsum(negative, axis=1)
        pairs = positive.sum(1) * below[:, -1]
        below -= negative / 2
        concordant = np.einsum("br,br->b", positive, below)
        share = np.full(len(pairs), np.nan)
        np.divide(concordant, pairs, out=share, where=pairs > 0)
        return share


def rates_by_person(correct: NDArray[np.bool_], persons: NDArray[Any]) -> Callable[[Array], Array]:
    """The RATES [B, 7] of rows predicted correctly or not [R, 4], for persons weighted [B, G]."""
    dimensions = correct.sum(1)
    columns = [*correct.T, dimensions / len(DIMENSIONS), dimensions == 4, dimensions >= 3]
    counts = np.stack([np.bincount(persons, column) for column in columns], axis=1)
    rows = np.bincount(persons).astype(float)

    def rates(weights: Array) -> Array:
        return np.asarray((weights @ counts) / (weights @ rows)[:, None])

    return rates


def macro_f1_by_person(
    predicted: NDArray[np.bool_], labels: NDArray[Any], persons: NDArray[Any]
) -> Callable[[Array], Array]:
    """Macro-F1 [B, 4] of predictions [R, 4], for persons weighted [B, G]."""
    sums = cells_by_person(predicted, labels, persons)
    return lambda w: metrics_of_confusion((w @ sums).reshape(-1, 4, _CELLS))["macro_f1"]


def cells_by_person(
    predicted: NDArray[np.bool_], labels: NDArray[Any], persons: NDArray[Any]
) -> Array:
    """The confusion matrices of each person in four dimensions, [G, 16]."""
    groups = int(persons.max()) + 1
    cells = persons[:, None] * _CELLS + confusion_cells(predicted, labels)
    counts = [np.bincount(column, minlength=groups * _CELLS) for column in cells.T]
    return np.concatenate([c.reshape(groups, _CELLS) for c in counts], axis=1).astype(float)


def squares_by_person(probabilities: Array, labels: NDArray[Any], persons: NDArray[Any]) -> Array:
    """The squared errors of the probabilities [R, 4], summed for each person: [G, 4]."""
    squares = (probabilities - labels.astype(float)) ** 2
    return np.column_stack([np.bincount(persons, column) for column in squares.T])
