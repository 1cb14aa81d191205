"""The contents of charts of scores: bars, reliability, learning curves.

Knows records as scores.json holds them; how a kind of chart is drawn is in templates/charts.js.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mbti_ray.reports.wording import percent
from mbti_ray.typology import DIMENSIONS

# A name, a length in any unit, and its label.
Bar = tuple[str, float, str]
# A JSON object of scores.json or metrics.jsonl.
Record = Mapping[str, Any]
# What charts.js takes: kind, caption, rows, and what the kind needs besides.
Chart = dict[str, Any]

_LINES = {
    "loss": {"training": ("train", "loss"), "validation": ("val", "loss")},
    "mean accuracy": {
        "training": ("train", "acc_mean"),
        "validation": ("val", "acc_mean"),
        "majority class": ("val", "majority_mean"),
    },
}


def bars(caption: str, lengths: Sequence[Bar]) -> Chart:
    """Horizontal bars, each with its name on the left and its label on the right."""
    rows = [dict(zip(("name", "length", "label"), bar, strict=True)) for bar in lengths]
    return {"kind": "bars", "caption": caption, "rows": rows}


def shares(caption: str, found: Mapping[str, float]) -> Chart:
    """Bars of shares from 0 to 1."""
    return bars(caption, [(name, share, percent(share)) for name, share in found.items()])


def reliability(dimensions: Record) -> list[Chart]:
    """How often the label is the positive pole, by predicted probability, for each dimension.

    The area of a dot is its share of the rows; on the diagonal the model is calibrated.
    """
    found = [(d, [b for b in dimensions[d.key]["reliability"] if b["count"]]) for d in DIMENSIONS]
    return [
        {"kind": "reliability", "caption": d.name, "rows": bins, "pole": d.positive}
        for d, bins in found
    ]


def learning_curves(history: Sequence[Record]) -> list[Chart]:
    """Loss and mean accuracy after each epoch, training and validation; empty without epochs."""
    charts = []
    for caption, lines in _LINES.items() if history else ():
        values = [
            {"epoch": entry["epoch"], "value": (entry.get(split) or {}).get(key), "series": series}
            for series, (split, key) in lines.items()
            for entry in history
        ]
        rows = [v for v in values if v["value"] is not None and math.isfinite(v["value"])]
        charts.append({"kind": "learning", "caption": caption, "rows": rows})
    return charts
