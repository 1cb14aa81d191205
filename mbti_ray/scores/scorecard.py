"""The scorecard of evaluated rows: one JSON-able record of every metric and its interval.

Must not know models, files or pages. An AUROC is None where the rows have one class only.

Shapes: R rows, G persons, B resamples, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import DataError
from mbti_ray.scores.baselines import Baseline
from mbti_ray.scores.bootstrap import LEVEL, Array, Estimate, Statistic, bootstrap
from mbti_ray.scores.comparison import compare
from mbti_ray.scores.metrics import (
    BINS,
    METRICS,
    RATES,
    Scored,
    confusion_cells,
    macro_f1_by_person,
    metrics_by_person,
    rates_by_person,
    reliability_bin,
)
from mbti_ray.typology import DIMENSIONS, type_of

# In what the model is compared with the best baseline.
_PAIRED = ("accuracy", "all_four", *(d.key for d in DIMENSIONS), "macro_f1")
_PAIRED_KEYS = ("value", "low", "high", "p")

_LENGTH_BINS = 4

# Names of estimates besides those of METRICS.
_MODEL, _RATES_OF, _F1_OF = "rates of the model", "rates of ", "macro-F1 of "


class Scorecard(TypedDict):
    """What scores.json holds under `scorecard`.

    Attributes:
        intervals: Their `level` and `method`, the number of `resamples`, and what was `resampled`,
            so many `groups` of them: "author", or "user" where authors are not known.
        dimensions: By key (ei, sn, tf, jp): an `Interval` or None for each of METRICS, and the
            confusion matrix, reliability bins and shares of `_without_interval`.
        overall: The means over the dimensions, `all_four`, `at_least_three` and `abstained`.
        baselines: By name: a description, and an interval for each of RATES and the mean macro-F1.
        missing: By name the reason why a baseline is missing.
        lengths: Four bins of rows by the tokens read, as `_by_length` has them; None where these
            are not known.
        paired: The model against the best comparable baseline; None without one.
    """

    rows: int
    intervals: dict[str, Any]
    dimensions: dict[str, dict[str, Any]]
    overall: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    missing: dict[str, str]
    lengths: list[dict[str, float]] | None
    paired: dict[str, Any] | None


def build_scorecard(
    scored: Scored,
    baselines: Sequence[Baseline],
    *,
    resamples: int,
    person: str,
    missing: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Scorecard:
    """All metrics of evaluated rows with 95 % intervals, next to those of the baselines.

    Predictions are the forced ones; how many were X is counted separately. With one person nothing
    can be resampled, so there are no intervals, whatever `resamples` asks for; no rows at all are a
    DataError.

    Args:
        person: What a person is here: "author", or "user" where authors are not known.
        missing: By name the reason why a baseline is missing.
    """
    rows = len(scored.labels)
    if not rows:
        raise DataError("there are no rows to score")
    people, persons = np.unique(scored.persons, return_inverse=True)
    drawn = resamples if len(people) > 1 else 0
    estimates = bootstrap(
        _all_metrics(scored, persons, baselines),
        rows=rows,
        groups=len(people),
        resamples=drawn,
        seed=seed,
    )
    rates = _rates(estimates[_MODEL])
    return {
        "rows": rows,
        "intervals": {
            "level": LEVEL,
            "resampled": person,
            "groups": len(people),
            "resamples": drawn,
            "method": "percentile bootstrap by person",
        },
        "dimensions": {
            d.key: {name: estimates[name].interval(k) for name in METRICS}
            | _without_interval(scored, k)
            for k, d in enumerate(DIMENSIONS)
        },
        "overall": {name: estimates[name].mean().interval(0) for name in METRICS}
        | {name: rates[name] for name in ("all_four", "at_least_three")}
        | {"abstained": float(scored.unanswered.mean())},
        "baselines": {
            b.name: {"description": b.description}
            | _rates(estimates[_RATES_OF + b.name])
            | {"macro_f1": estimates[_F1_OF + b.name].mean().interval(0)}
            for b in baselines
        },
        "missing": dict(missing or {}),
        "lengths": None if scored.tokens is None else _by_length(scored, scored.tokens),
        "paired": _paired(scored, baselines, estimates, resamples=drawn, seed=seed),
    }


def _all_metrics(scored: Scored, persons: NDArray[Any], baselines: Sequence[Baseline]) -> Statistic:
    """Metrics and rates of the model and rates of the baselines, all on the same resamples."""
    metrics = metrics_by_person(scored.probabilities, scored.labels, scored.thresholds, persons)
    rates = {_MODEL: rates_by_person(scored.correct, persons)}
    for b in baselines:
        rates[_RATES_OF + b.name] = rates_by_person(_correct(b, scored), persons)
        rates[_F1_OF + b.name] = macro_f1_by_person(b.predicted, scored.labels, persons)
    return lambda weights: metrics(weights) | {name: of(weights) for name, of in rates.items()}


def _correct(baseline: Baseline, scored: Scored) -> NDArray[np.bool_]:
    return np.asarray(baseline.predicted == scored.labels.astype(bool))


def _rates(estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.interval(index) for index, name in enumerate(RATES)}


def _without_interval(scored: Scored, k: int) -> dict[str, Any]:
    """What has no interval of one dimension."""
    cells = np.bincount(confusion_cells(scored.predicted[:, k], scored.labels[:, k]), minlength=4)
    unanswered = scored.unanswered[:, k]
    answered = scored.correct[~unanswered, k]
    return {
        "confusion": dict(zip(("tp", "fn", "fp", "tn"), cells.tolist(), strict=True)),
        "positive": float(scored.labels[:, k].astype(bool).mean()),
        "reliability": reliability(scored.probabilities[:, k], scored.labels[:, k]),
        "abstained": float(unanswered.mean()),
        "accuracy_answered": float(answered.mean()) if len(answered) else None,
    }


def reliability(probability: Array, label: NDArray[Any]) -> list[dict[str, float | int]]:
    """Mean probability and share of positives of each non-empty bin, for one dimension [R]."""
    bins = reliability_bin(probability)
    counts = np.bincount(bins, minlength=BINS)
    probabilities = np.bincount(bins, probability, minlength=BINS)
    positives = np.bincount(bins, label.astype(float), minlength=BINS)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "count": int(counts[b]),
            "probability": float(probabilities[b] / counts[b]),
            "positive": float(positives[b] / counts[b]),
        }
        for b in np.flatnonzero(counts).tolist()
    ]


def _by_length(scored: Scored, tokens: NDArray[np.int64]) -> list[dict[str, float]]:
    """A quarter of the rows each, from the shortest to the longest: is confidence right in all?

    `confidence` is the mean probability of the likelier poles, `accuracy` that of the letters, both
    over the four dimensions, as is `ece`.
    """
    bins = []
    for rows in np.array_split(np.argsort(tokens, kind="stable"), _LENGTH_BINS):
        if len(rows):
            p = scored.probabilities[rows]
            thresholds = np.broadcast_to(scored.thresholds, scored.labels.shape)[rows]
            of_rows = metrics_by_person(
                p, scored.labels[rows], thresholds, np.zeros(len(rows), np.int64)
            )(np.ones((1, 1)))
            bins.append(
                {
                    "low": int(tokens[rows].min()),
                    "high": int(tokens[rows].max()),
                    "rows": len(rows),
                    "confidence": float(np.maximum(p, 1 - p).mean()),
                    **{key: float(of_rows[key].mean()) for key in ("accuracy", "ece")},
                }
            )
    return bins


def _paired(
    scored: Scored,
    baselines: Sequence[Baseline],
    estimates: Mapping[str, Estimate],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """The model against the comparable baseline with the highest accuracy, on the same rows."""
    comparable = [b for b in baselines if b.comparable]
    if not comparable:
        return None
    mean = RATES.index("accuracy")
    best = max(comparable, key=lambda b: float(estimates[_RATES_OF + b.name].value[mean]))
    sure = replace(scored, probabilities=best.predicted.astype(float), thresholds=np.full(4, 0.5))
    differences = compare(sure, scored, resamples=resamples, seed=seed)["differences"]
    return {
        "against": best.name,
        **{m: {key: differences[m][key] for key in _PAIRED_KEYS} for m in _PAIRED},
        "test": "sign-flip permutation by person, two-sided",
    }


class Mistake(NamedTuple):
    """A row with the type that it has, the one that was predicted, and its log loss.

    `text` is what the model read.
    """

    true: str
    predicted: str
    loss: float
    text: str


def find_mistakes(scored: Scored, texts: Sequence[str], *, count: int) -> list[Mistake]:
    """Of the rows with a wrong letter the `count` with the highest mean log loss of all four."""
    given = np.where(scored.labels, scored.probabilities, 1 - scored.probabilities)
    losses = -np.log(np.clip(given, 1e-12, 1)).mean(1)
    order = [k for k in np.argsort(-losses, kind="stable") if not scored.correct[k].all()]
    return [
        Mistake(type_of(scored.labels[k]), type_of(scored.predicted[k]), float(losses[k]), texts[k])
        for k in order[:count]
    ]
