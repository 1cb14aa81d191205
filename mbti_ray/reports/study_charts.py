"""The contents of a study's charts: history, curves, parallel coordinates, timeline, Pareto front.

Each row has the number of its trial, which page.js highlights in all of them. Knows `StudySummary`;
how a kind of chart is drawn is in templates/charts.js.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from itertools import accumulate
from typing import Any

from mbti_ray.reports.charts import Chart, chart
from mbti_ray.reports.wording import short
from mbti_ray.scores.study_summary import StudySummary

Trial = Mapping[str, Any]
# A searched range in plain form.
Searched = Mapping[str, Any]

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


def ran_here(study: StudySummary) -> list[Trial]:
    """The trials of this study that have ended, without imported ones."""
    states = ("COMPLETE", "PRUNED", "FAIL")
    return [t for t in study["trials"] if not t["imported"] and t["state"] in states]


def first_value(trial: Trial) -> float | None:
    """A trial's value of the first objective; None if it failed or was never evaluated."""
    values = trial["values"] if trial["state"] != "FAIL" else None
    return float(values[0]) if values else None


def _valued(study: StudySummary) -> list[tuple[Trial, float]]:
    return [(t, v) for t in ran_here(study) if (v := first_value(t)) is not None]


def _is_minimized(study: StudySummary) -> bool:
    return study["objectives"][0]["direction"] == "minimize"


def _row(study: StudySummary, trial: Trial, **more: Any) -> dict[str, Any]:
    number = trial["number"]
    state = STATE_NAMES[trial["state"]]
    return {"trial": number, "best": number == study["best"], "state": state} | more


def history(study: StudySummary) -> Chart:
    """The first objective by trial, and the best value so far; failed trials at the bottom."""
    name, valued = study["objectives"][0]["name"], _valued(study)
    bests = accumulate((v for _, v in valued), min if _is_minimized(study) else max)
    so_far = {t["number"]: best for (t, _), best in zip(valued, bests, strict=True)}
    floor = min((v for _, v in valued), default=0.0)
    rows = [
        _row(
            study,
            t,
            value=floor if value is None else value,
            shown="none" if value is None else short(value),
            so_far=so_far.get(t["number"]),
        )
        for t in ran_here(study)
        for value in [first_value(t)]
    ]
    caption = f"{name} by trial; the line is the best so far"
    numbers = [f"trial {t['number']} {v:.4g}" for t, v in valued]
    return chart("history", caption, rows, numbers, objective=name)


def curves(study: StudySummary) -> Chart:
    """The first objective by epoch, one line per trial; stopped ones dashed, the best one thick."""
    name = study["objectives"][0]["name"]
    trials = [t for t in ran_here(study) if t["evaluations"]]
    # The best is drawn last, on top.
    drawn = sorted(trials[-_MAX_LINES:], key=lambda t: t["number"] == study["best"])
    rows = [
        _row(study, t, epoch=e[0], value=e[1], stopped=t["state"] != "COMPLETE")
        for t in drawn
        for e in t["evaluations"]
    ]
    ends = [(t["number"], t["evaluations"][0][1], t["evaluations"][-1][1]) for t in drawn]
    numbers = [f"trial {number} from {first:.4g} to {last:.4g}" for number, first, last in ends]
    caption = f"{name} by epoch; stopped trials dashed, the best one thick"
    return chart("epochs", caption, rows, numbers, objective=name)


def parallel(study: StudySummary) -> Chart:
    """One line per trial through its params, each on a scale of its own; the best one thick."""
    name, sign = study["objectives"][0]["name"], -1 if _is_minimized(study) else 1
    # Good trials are drawn last, on top.
    drawn = sorted(_valued(study), key=lambda found: sign * found[1])[-_MAX_LINES:]
    values = [v for _, v in drawn] or [0.0, 1.0]
    scales = {**study["search"], name: {"low": min(values), "high": max(values)}}
    points = [(t, v, {**t["params"], name: v}) for t, v in drawn]
    rows = [
        _row(
            study,
            t,
            scale=scale,
            order=order,
            at=_position(scales[scale], found[scale]) if scale in found else _MISSING,
            value=short(found.get(scale, "-")),
            score=short(v),
        )
        for t, v, found in points
        for order, scale in enumerate(scales)
    ]
    ticks = [
        {"scale": scale, "at": at, "label": label}
        for scale, searched in scales.items()
        for at, label in _ticks(searched, any(scale not in found for _, _, found in points))
    ]
    numbers = [
        f"trial {t['number']} ({v:.4g}): "
        + ", ".join(f"{address} {short(value)}" for address, value in t["params"].items())
        for t, v in drawn
    ]
    more = {"ticks": ticks, "objective": name, "scales": [*scales]}
    return chart("parallel", "Values by trial; the best one thick", rows, numbers, **more)


def _ticks(searched: Searched, has_missing: bool) -> list[tuple[float, str]]:
    if "choices" in searched:
        choices = searched["choices"]
        shown = choices if len(choices) <= 5 else (choices[0], choices[-1])
    else:
        shown = _ends(searched)
    ticks = [(_position(searched, value), short(value)) for value in dict.fromkeys(shown)]
    return [*ticks, (_MISSING, "-")] if has_missing else ticks


def _position(searched: Searched, value: Any) -> float:
    """The position of a value on its scale, from 0 to 1; `_MISSING` if it is no choice."""
    if "choices" in searched:
        choices = [repr(choice) for choice in searched["choices"]]
        if repr(value) not in choices:
            return _MISSING
        return choices.index(repr(value)) / max(len(choices) - 1, 1)
    low, high = _ends(searched)
    if searched.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return 0.5 if high == low else float((value - low) / (high - low))


def _ends(searched: Searched) -> tuple[float, float]:
    kind = "" if "low" in searched else "int_"
    return searched[f"{kind}low"], searched[f"{kind}high"]


def timeline(study: StudySummary) -> Chart:
    """Which trial each worker trained when; stopped ones pale, failed ones hollow."""
    timed = [t for t in ran_here(study) if t["started"] and t["ended"]]
    spans = [
        [datetime.fromisoformat(t[key]).timestamp() for key in ("started", "ended")] for t in timed
    ]
    origin = min((start for start, _ in spans), default=0.0)
    span = max((end for _, end in spans), default=1.0) - origin
    unit, name = (
        (3600.0, "hours") if span > 7200 else (60.0, "minutes") if span > 120 else (1.0, "s")
    )
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
        for t, (start, end) in zip(timed, spans, strict=True)
    ]
    lanes = list(dict.fromkeys(row["worker"] for row in rows))
    numbers = [f"trial {row['trial']} on {row['worker']} for {row['took']}" for row in rows]
    caption = "Trials by worker and time; stopped ones pale, failed ones hollow"
    return chart("timeline", caption, rows, numbers, unit=name, lanes=lanes)


def front(study: StudySummary, x: int, y: int) -> Chart:
    """Two objectives against each other; the trials of the Pareto front are connected."""
    names = [study["objectives"][k]["name"] for k in (x, y)]
    rows = [
        _row(study, t, x=t["values"][x], y=t["values"][y]) | {"best": t["number"] in study["front"]}
        for t, _ in _valued(study)
    ]
    numbers = [f"{row['x']:.4g} and {row['y']:.4g}" for row in rows if row["best"]]
    caption = f"{names[0]} against {names[1]}; the Pareto front is connected"
    return chart("front", caption, rows, numbers, x=names[0], y=names[1])
