"""The contents of charts of scores: bars, reliability, learning curves; and confusion matrices.

Knows records as scores.json holds them; how a kind of chart is drawn is in templates/charts.js.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mbti_ray.reports.wording import number, percent
from mbti_ray.typology import DIMENSIONS, Dimension

# A name, a length in any unit, and its label.
Bar = tuple[str, float, str]
# A JSON object of scores.json or metrics.jsonl.
Record = Mapping[str, Any]
# What charts.js takes: kind, caption, description, rows, and what the kind needs besides.
Chart = dict[str, Any]

_LINES = {
    "loss": {"training": ("train", "loss"), "validation": ("val", "loss")},
    "mean accuracy": {
        "training": ("train", "acc_mean"),
        "validation": ("val", "acc_mean"),
        "majority class": ("val", "majority_mean"),
    },
}


def chart(
    kind: str, caption: str, rows: Sequence[Record], numbers: Iterable[str], **more: Any
) -> Chart:
    """A chart of `rows`; `numbers` describe it to a screen reader."""
    description = f"{caption}: {'; '.join(numbers) or 'none'}"
    return {"kind": kind, "caption": caption, "description": description, "rows": rows} | more


def bars(caption: str, lengths: Sequence[Bar]) -> Chart:
    """Horizontal bars, each with its name on the left and its label on the right."""
    rows = [{"name": name, "length": length, "label": label} for name, length, label in lengths]
    return chart("bars", caption, rows, [f"{name}: {label}" for name, _, label in lengths])


def shares(caption: str, found: Mapping[str, float]) -> Chart:
    """Bars of shares from 0 to 1."""
    return bars(caption, [(name, share, percent(share)) for name, share in found.items()])


def reliability(dimensions: Record) -> list[Chart]:
    """Four diagrams: how often the label is the positive pole, by predicted probability.

    The area of a dot is its share of the rows; on the diagonal the model is calibrated.
    """
    return [_reliability(d, dimensions[d.key]["reliability"]) for d in DIMENSIONS]


def _reliability(dimension: Dimension, bins: Sequence[Record]) -> Chart:
    filled = [b for b in bins if b["count"]]
    count = sum(b["count"] for b in filled)
    rows = [
        {
            "predicted": b["probability"],
            "observed": b["positive"],
            "rows": b["count"],
            "share": b["count"] / count,
            "between": f"{b['low']:.2f} to {b['high']:.2f}",
        }
        for b in filled
    ]
    numbers = [
        f"predicted {b['probability']:.2f}, observed {b['positive']:.2f} ({b['count']:.0f} rows)"
        for b in filled
    ]
    return chart("reliability", dimension.name, rows, numbers, pole=dimension.positive)


def confusions(dimensions: Record) -> dict[str, list[tuple[str, list[tuple[float, float]]]]]:
    """By key of the dimension, for each pole: counts predicted as each pole, with their shares."""
    found = {}
    for d in DIMENSIONS:
        counts = dimensions[d.key]["confusion"]
        rows = ((d.positive, ("tp", "fn")), (d.negative, ("fp", "tn")))
        found[d.key] = [
            (pole, [(counts[c], counts[c] / (sum(counts[k] for k in cells) or 1)) for c in cells])
            for pole, cells in rows
        ]
    return found


def learning_curves(history: Sequence[Record]) -> list[Chart]:
    """Loss and mean accuracy after each epoch, training and validation; empty without epochs."""
    return [_curves(caption, history) for caption in _LINES] if history else []


def _curves(caption: str, history: Sequence[Record]) -> Chart:
    rows, numbers = [], []
    for name, (split, key) in _LINES[caption].items():
        values = [(entry["epoch"], (entry.get(split) or {}).get(key)) for entry in history]
        points = [(epoch, v) for epoch, v in values if v is not None and math.isfinite(v)]
        rows += [{"epoch": epoch, "value": v, "series": name} for epoch, v in points]
        if points:
            numbers.append(f"{name} {number(points[0][1])} first, {number(points[-1][1])} last")
    return chart("learning", caption, rows, numbers)
