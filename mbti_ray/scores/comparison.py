"""Two sets of predictions for the same rows: in what they differ, and whether by more than chance.

Shapes: R rows, G persons, B resamples, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

import math
from typing import Any, TypedDict

import numpy as np

from mbti_ray.scores.bootstrap import Array, bootstrap, swap_test
from mbti_ray.scores.metrics import (
    Scored,
    cells_by_person,
    metrics_of_confusion,
    squares_by_person,
)
from mbti_ray.scores.names import COMPARED_NAMES, METRIC_NAMES
from mbti_ray.scores.verdict import is_significant
from mbti_ray.typology import DIMENSIONS

# What two bundles are compared in; the others are shares of letters, and of types, right.
MAIN_MEASURES = ("accuracy", "macro_f1", "brier")
MEASURES = (*MAIN_MEASURES, *(d.key for d in DIMENSIONS), "all_four")
NAMES = COMPARED_NAMES | METRIC_NAMES
# A Brier score is better when it is lower.
_BETTER = np.array([-1.0 if name == "brier" else 1.0 for name in MEASURES])
# One-sided, and shared by the three main measures: with equal bundles at most 5 % are refused.
_WORSE_P = 0.05 / len(MAIN_MEASURES)
# With fewer people no swap test has a p-value as low.
MIN_PERSONS = math.ceil(-math.log2(_WORSE_P))


class Comparison(TypedDict):
    """Second predictions against first ones.

    `differences`, by name of MEASURES, have `first`, `second`, second - first as `value` with its
    bounds `low` and `high`, `p` (two-sided), and `p_worse` (one-sided); `flips`, by dimension, how
    many letters of the first are `corrected` by the second, and how many `spoiled`; `worse_in` are
    the main measures in which the second is worse, at 5 % over all of them together.
    """

    rows: int
    persons: int
    differences: dict[str, dict[str, Any]]
    flips: dict[str, dict[str, int]]
    worse_in: list[str]


def compare(first: Scored, second: Scored, *, resamples: int, seed: int = 0) -> Comparison:
    """Compare predictions for the same rows, which are in the same order."""
    people, persons = np.unique(first.persons, return_inverse=True)
    sums = tuple(_sums_by_person(scored, persons) for scored in (first, second))
    estimates = bootstrap(
        lambda weights: {str(k): _measures(weights @ own) for k, own in enumerate(sums)},
        rows=len(persons),
        groups=len(people),
        resamples=resamples if len(people) > 1 else 0,
        seed=seed,
    )
    p, lower = swap_test(sums[0], sums[1], lambda totals: _measures(totals) * _BETTER, seed=seed)
    difference = estimates["1"] - estimates["0"]
    differences: dict[str, dict[str, Any]] = {
        name: {
            "first": float(estimates["0"].value[i]),
            "second": float(estimates["1"].value[i]),
            **(difference.interval(i) or {}),
            "p": float(p[i]),
            "p_worse": float(lower[i]),
        }
        for i, name in enumerate(MEASURES)
    }
    changed = first.predicted != second.predicted
    return {
        "rows": len(persons),
        "persons": len(people),
        "differences": differences,
        "flips": {
            d.key: {
                "corrected": int((changed & second.correct)[:, k].sum()),
                "spoiled": int((changed & first.correct)[:, k].sum()),
            }
            for k, d in enumerate(DIMENSIONS)
        },
        "worse_in": [n for n in MAIN_MEASURES if differences[n]["p_worse"] <= _WORSE_P],
    }


def is_better(difference: dict[str, Any], name: str) -> bool | None:
    """Whether the second is better in a measure, or worse; None where chance explains it."""
    if not is_significant(difference):
        return None
    return bool(difference["value"] * _BETTER[MEASURES.index(name)] > 0)


def describe_comparison(found: Comparison, first: str, second: str) -> str:
    """`B is better than A on 57 people: accuracy +0.031 (p 0.012); no worse in the rest`."""
    people = "1 person" if found["persons"] == 1 else f"{found['persons']:,} people"
    if found["persons"] < MIN_PERSONS:
        which = f"whether {second} is better or worse than {first}"
        return f"{people}: too few to tell {which}; needed: {MIN_PERSONS} or more"
    found_better = {n: is_better(found["differences"][n], n) for n in MAIN_MEASURES}
    parts = {
        word: ", ".join(
            f"{NAMES[n]} {found['differences'][n]['value']:+.3f} "
            f"(p {found['differences'][n]['p']:.2g})"
            for n in MAIN_MEASURES
            if found_better[n] is outcome
        )
        for word, outcome in (("better", True), ("worse", False), ("level", None))
    }
    if not parts["better"] and not parts["worse"]:
        return (
            f"{second} and {first} differ by no more than chance explains, on {people}: "
            f"{parts['level']}"
        )
    clauses = [
        f"{word} than {first} in {parts[word]}" for word in ("better", "worse") if parts[word]
    ]
    return f"{second} is {', but '.join(clauses)}, on {people}"


def _sums_by_person(scored: Scored, persons: Any) -> Array:
    """The cells of four confusion matrices, four squared errors, all-four counts: [G, 16 + 5]."""
    cells = cells_by_person(scored.predicted, scored.labels, persons)
    squares = squares_by_person(scored.probabilities, scored.labels, persons)
    return np.column_stack([cells, squares, np.bincount(persons, scored.correct.all(1))])


def _measures(sums: Array) -> Array:
    """The MEASURES [B, 8] of sums [B, 16 + 5]."""
    cells, squares, all_four = sums[:, :16].reshape(-1, 4, 4), sums[:, 16:20], sums[:, 20]
    found = metrics_of_confusion(cells)
    rows = cells.sum(-1)
    means = [values.mean(1) for values in (found["accuracy"], found["macro_f1"], squares / rows)]
    return np.column_stack([*means, found["accuracy"], all_four / rows[:, 0]])
