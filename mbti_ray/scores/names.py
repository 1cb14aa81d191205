"""What metrics are called for people, and in what order they are compared.

The names in scores.json are those of `metrics`. Imports nothing heavy.
"""

from collections.abc import Mapping
from typing import Any

from mbti_ray.typology import DIMENSIONS

DIMENSION_NAMES = {d.key: d.name for d in DIMENSIONS}
# Shares of correct predictions, in the order in which a table shows them.
RATE_NAMES = DIMENSION_NAMES | {
    "accuracy": "mean",
    "all_four": "all four",
    "at_least_three": "at least three",
}
METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "MCC",
    "auroc": "AUROC",
    "brier": "Brier",
    "ece": "ECE",
}
# What models and baselines are compared in.
COMPARED_NAMES = RATE_NAMES | {"macro_f1": METRIC_NAMES["macro_f1"]}
# A percentile bootstrap of fewer persons gives intervals that are too narrow.
FEW_PERSONS = 20


def rates_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """The model's intervals in what it is compared in, by the names of `COMPARED_NAMES`."""
    dimensions = {key: card["dimensions"][key]["accuracy"] for key in DIMENSION_NAMES}
    return {key: (card["overall"] | dimensions).get(key) for key in COMPARED_NAMES}
