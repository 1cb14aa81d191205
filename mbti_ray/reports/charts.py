"""The contents of charts: bars, reliability, learning curves, and those of a study.

Knows records as scores.json holds them, and `StudySummary`, in whose charts each row has the number
of its trial: page.js highlights it in all of them. How a kind of chart is drawn is in
templates/charts.js.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from mbti_ray.reports.wording import percent, short
from mbti_ray.scores.study_summary import StudySummary
from mbti_ray.typology import DIMENSIONS

# A name, a length in any unit, and its label.
Bar = tuple[str, float, str]
# A JSON object: of scores.json, of metrics.jsonl, a trial, or a searched range.
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
STATE_NAMES = {
    "COMPLETE": "completed",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "was running",
}
# More lines than this would be unreadable.
_MAX_LINES = 200
# Where a trial without a value for an address is drawn; scales go from 0 to 1.
_MISSING = -0.12


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


def study_charts(study: StudySummary) -> list[Chart]:
    """The charts of the trials that have ended in this study."""
    return [_history(study), _curves(study), _parallel(study), _timeline(study)]


def first_value(trial: Record) -> float | None:
    """A trial's value of the first objective; None if it failed or was never evaluated."""
    values = trial["values"] if trial["state"] != "FAIL" else None
    return float(values[0]) if values else None


def _ended(study: StudySummary) -> list[Record]:
    states = ("COMPLETE", "PRUNED", "FAIL")
    return [t for t in study["trials"] if not t["imported"] and t["state"] in states]


def _valued(study: StudySummary) -> list[tuple[Record, float]]:
    return [(t, v) for t in _ended(study) if (v := first_value(t)) is not None]


def _is_minimized(study: StudySummary) -> bool:
    return study["objectives"][0]["direction"] == "minimize"


def _row(study: StudySummary, trial: Record, **more: Any) -> dict[str, Any]:
    number, state = trial["number"], STATE_NAMES[trial["state"]]
    return {"trial": number, "best": number == study["best"], "state": state} | more


def _history(study: StudySummary) -> Chart:
    """The first objective by trial, and the best value so far; failed trials at the bottom."""
    name, valued = study["objectives"][0]["name"], _valued(study)
    bests = accumulate((v for _, v in valued), min if _is_minimized(study) else max)
    so_far = {t["number"]: best for (t, _), best in zip(valued, bests, strict=True)}
    floor = min((v for _, v in valued), default=0.0)
    rows = []
    for t in _ended(study):
        value, best = first_value(t), so_far.get(t["number"])
        shown, value = ("none", floor) if value is None else (short(value), value)
        rows.append(_row(study, t, value=value, shown=shown, so_far=best))
    caption = f"{name} by trial; the line is the best so far"
    return {"kind": "history", "caption": caption, "rows": rows, "objective": name}


def _curves(study: StudySummary) -> Chart:
    """The first objective by epoch, one line per trial."""
    name = study["objectives"][0]["name"]
    trials = [t for t in _ended(study) if t["evaluations"]][-_MAX_LINES:]
    rows = [
        _row(study, t, epoch=e[0], value=e[1])
        # The best is drawn last, on top.
        for t in sorted(trials, key=lambda t: t["number"] == study["best"])
        for e in t["evaluations"]
    ]
    caption = f"{name} by epoch; stopped trials dashed, the best one thick"
    return {"kind": "epochs", "caption": caption, "rows": rows, "objective": name}


def _parallel(study: StudySummary) -> Chart:
    """One line per trial through its params, each on a scale of its own."""
    name, sign = study["objectives"][0]["name"], -1 if _is_minimized(study) else 1
    # Good trials are drawn last, on top.
    drawn = sorted(_valued(study), key=lambda found: sign * found[1])[-_MAX_LINES:]
    scores = [v for _, v in drawn] or [0.0, 1.0]
    scales = {**study["search"], name: {"low": min(scores), "high": max(scores)}}
    rows, ticks = [], []
    for order, (scale, searched) in enumerate(scales.items()):
        choices = searched.get("choices") or _ends(searched)
        shown = choices if len(choices) <= 5 else (choices[0], choices[-1])
        found = [(_position(searched, value), short(value)) for value in dict.fromkeys(shown)]
        for t, score in drawn:
            values = {**t["params"], name: score}
            at, text = _MISSING, "-"
            if scale in values:
                at, text = _position(searched, values[scale]), short(values[scale])
            elif (at, text) not in found:
                found.append((at, text))
            more = {"scale": scale, "order": order, "at": at, "value": text}
            rows.append(_row(study, t, score=short(score), **more))
        ticks += [{"scale": scale, "at": at, "label": label} for at, label in found]
    # A line of the chart is drawn whole, so its rows follow each other.
    rank = {t["number"]: rank for rank, (t, _) in enumerate(drawn)}
    rows.sort(key=lambda row: (rank[row["trial"]], row["order"]))
    caption = "Values by trial; the best one thick"
    more = {"ticks": ticks, "objective": name, "scales": [*scales]}
    return {"kind": "parallel", "caption": caption, "rows": rows, **more}


def _position(searched: Record, value: Any) -> float:
    """The position of a value on its scale, from 0 to 1; `_MISSING` if it is no choice."""
    if "choices" in searched:
        choices = [repr(choice) for choice in searched["choices"]]
        found = choices.index(repr(value)) if repr(value) in choices else None
        return _MISSING if found is None else found / max(len(choices) - 1, 1)
    low, high = _ends(searched)
    if searched.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return 0.5 if high == low else float((value - low) / (high - low))


def _ends(searched: Record) -> tuple[float, float]:
    kind = "" if "low" in searched else "int_"
    return searched[f"{kind}low"], searched[f"{kind}high"]


def _timeline(study: StudySummary) -> Chart:
    """Which trial each worker trained when."""
    timed = [t for t in _ended(study) if t["started"] and t["ended"]]
    starts, ends = (
        [datetime.fromisoformat(t[key]).timestamp() for t in timed] for key in ("started", "ended")
    )
    origin = min(starts, default=0.0)
    span = max(ends, default=1.0) - origin
    unit, name = (3600, "hours") if span > 7200 else (60, "minutes") if span > 120 else (1, "s")
    rows = [
        _row(
            study,
            t,
            worker=t["worker"] or "no worker",
            start=(start - origin) / unit,
            end=(end - origin) / unit,
            middle=((start + end) / 2 - origin) / unit,
            # A number that does not fit into its box would overlap the next one.
            label=str(t["number"]) if end - start > span / 20 else "",
            took=f"{end - start:.1f} s",
        )
        for t, start, end in zip(timed, starts, ends, strict=True)
    ]
    lanes = list(dict.fromkeys(row["worker"] for row in rows))
    caption = "Trials by worker and time; stopped ones pale, failed ones hollow"
    return {"kind": "timeline", "caption": caption, "rows": rows, "unit": name, "lanes": lanes}


def front(study: StudySummary, x: int, y: int) -> Chart:
    """Two objectives against each other; the trials of the Pareto front are connected."""
    names = [study["objectives"][k]["name"] for k in (x, y)]
    rows = [
        _row(study, t, x=t["values"][x], y=t["values"][y]) | {"best": t["number"] in study["front"]}
        for t, _ in _valued(study)
    ]
    caption = f"{names[0]} against {names[1]}; the Pareto front is connected"
    return {"kind": "front", "caption": caption, "rows": rows, "x": names[0], "y": names[1]}
