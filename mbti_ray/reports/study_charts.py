"""Charts of a study: history, curves, parallel coordinates, timeline, Pareto front.

Knows `StudySummary`; `svg` knows how a chart becomes SVG.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mbti_ray.reports.html import Html, figure
from mbti_ray.reports.svg import FILL, INK, LEGEND, LINE, SOFT, draw_svg
from mbti_ray.scores.study_summary import StudySummary

Trial = Mapping[str, Any]
# A searched range in plain form.
Searched = Mapping[str, Any]

_WIDE = (680, 260)
_PLOT = (0.1, 0.17, 0.88, 0.7)
# How a state is drawn: distinguished by shape as well as by color.
_MARKS: dict[str, dict[str, Any]] = {
    "COMPLETE": {"marker": "o", "color": FILL},
    "PRUNED": {"marker": "v", "facecolors": "none", "edgecolors": SOFT},
    "FAIL": {"marker": "x", "color": INK},
}
STATE_NAMES = {
    "COMPLETE": "completed",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "was running",
}
# More lines than this would be unreadable.
_MAX_LINES = 200
# The height at which a trial without a value for an address is drawn.
_MISSING = -0.12


def ran_here(study: StudySummary) -> list[Trial]:
    """The trials of this study that have ended, without imported ones."""
    return [t for t in study["trials"] if not t["imported"] and t["state"] in _MARKS]


def first_value(trial: Trial) -> float | None:
    """A trial's value of the first objective; None if it failed or was never evaluated."""
    values = trial["values"] if trial["state"] != "FAIL" else None
    return float(values[0]) if values else None


def is_minimized(study: StudySummary) -> bool:
    return bool(study["objectives"][0]["direction"] == "minimize")


def history(study: StudySummary) -> Html:
    """The first objective by trial, and the best value so far."""
    name = study["objectives"][0]["name"]
    trials = ran_here(study)
    valued = [(t["number"], v) for t in trials if (v := first_value(t)) is not None]
    bests = list(accumulate((v for _, v in valued), min if is_minimized(study) else max))

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes(_PLOT)
        numbers = [n for n, _ in valued]
        axes.step(numbers, bests, where="post", color=SOFT, linewidth=1.25, label="best so far")
        floor = min((v for _, v in valued), default=0.0)
        for state, look in _MARKS.items():
            points = [
                (t["number"], floor if (v := first_value(t)) is None else v)
                for t in trials
                if t["state"] == state
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.scatter(x, y, s=34, label=STATE_NAMES[state], **look)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(y=0.12)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_xlabel("trial")
        axes.set_ylabel(name)
        axes.legend(**{**LEGEND, "ncols": 4})

    description = "; ".join(f"trial {n} {v:.4g}" for n, v in valued)
    return figure(f"{name} by trial", draw_svg(f"{name}: {description or 'none'}", _WIDE, draw))


def curves(study: StudySummary) -> Html:
    """The first objective by epoch, one line per trial; stopped ones dashed, the best one thick."""
    name, best = study["objectives"][0]["name"], study["best"]
    trials = [t for t in ran_here(study) if t["evaluations"]]
    # The best is drawn last, on top.
    drawn = sorted(trials[-_MAX_LINES:], key=lambda t: t["number"] == best)

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes(_PLOT)
        for trial in drawn:
            epochs = [e[0] for e in trial["evaluations"]]
            is_best = trial["number"] == best
            is_stopped = trial["state"] != "COMPLETE"
            axes.plot(
                epochs,
                [e[1] for e in trial["evaluations"]],
                color=FILL if is_best else SOFT,
                linewidth=2.5 if is_best else 1,
                linestyle=(0, (3, 3)) if is_stopped and not is_best else "solid",
                marker="o",
                markersize=3,
                alpha=1 if is_best else 0.7,
            )
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)

    description = "; ".join(
        f"trial {t['number']} from {t['evaluations'][0][1]:.4g} to {t['evaluations'][-1][1]:.4g}"
        for t in drawn
    )
    caption = f"{name} by epoch; stopped trials dashed, the best one thick"
    return figure(caption, draw_svg(f"{caption}: {description or 'none'}", _WIDE, draw))


def parallel(study: StudySummary) -> Html:
    """One line per trial through its params, each on its own scale; the best one thick."""
    addresses = list(study["search"])
    valued = [t for t in ran_here(study) if first_value(t) is not None]
    sign = -1 if is_minimized(study) else 1
    # Good trials are drawn last, on top.
    drawn = sorted(valued, key=lambda t: sign * (first_value(t) or 0.0))[-_MAX_LINES:]
    name = study["objectives"][0]["name"]
    height = 300

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.07, 0.16, 0.86, 0.72), ylim=(-0.2, 1.08))
        axes.set_axis_off()
        for index, address in enumerate(addresses):
            _scale(axes, index, address, study["search"][address], drawn)
        last = len(addresses)
        values = [first_value(t) or 0.0 for t in drawn]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        _axis(axes, last, name, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")])
        for rank, trial in enumerate(drawn):
            is_best = trial["number"] == study["best"]
            share = (rank + 1) / len(drawn)
            heights = [
                _height(study["search"][a], trial["params"][a])
                if a in trial["params"]
                else _MISSING
                for a in addresses
            ]
            end = 0.5 if high == low else ((first_value(trial) or 0.0) - low) / (high - low)
            axes.plot(
                range(last + 1),
                [*heights, end],
                color=FILL if is_best else SOFT,
                linewidth=3 if is_best else 1,
                alpha=1 if is_best else 0.2 + 0.6 * share,
                solid_joinstyle="round",
            )

    description = "; ".join(
        f"trial {t['number']} ({first_value(t):.4g}): "
        + ", ".join(f"{a} {_short(v)}" for a, v in t["params"].items())
        for t in drawn
    )
    caption = "Values by trial; the best one thick"
    width = max(_WIDE[0], 130 * (len(addresses) + 1))
    return figure(caption, draw_svg(f"{caption}: {description or 'none'}", (width, height), draw))


def _scale(
    axes: Axes, index: int, address: str, searched: Searched, drawn: Sequence[Trial]
) -> None:
    if "choices" in searched:
        choices = searched["choices"]
        shown = choices if len(choices) <= 8 else (choices[0], choices[-1])
        ticks = [(_height(searched, value), _short(value)) for value in shown]
    else:
        ticks = [(0.0, _short(_low(searched))), (1.0, _short(_high(searched)))]
    if any(address not in trial["params"] for trial in drawn):
        ticks.append((_MISSING, "-"))
    _axis(axes, index, address, ticks)


def _axis(axes: Axes, index: int, name: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([index, index], [0, 1], color=LINE, linewidth=1.25)
    section, dot, leaf = name.rpartition(".")
    axes.text(index, -0.31, f"{section}{dot}\n{leaf}", ha="center", va="bottom", fontsize=9.5)
    for height, label in ticks:
        axes.text(index - 0.03, height, label, ha="right", va="center", fontsize=8.5, color=SOFT)


def _height(searched: Searched, value: Any) -> float:
    """The height of a value on its axis, from 0 to 1; below 0 where a trial has none."""
    if "choices" in searched:
        choices = [repr(choice) for choice in searched["choices"]]
        if repr(value) not in choices:
            return _MISSING
        return choices.index(repr(value)) / (len(choices) - 1)
    low, high = _low(searched), _high(searched)
    if searched.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _low(searched: Searched) -> float:
    return float(searched["low"] if "low" in searched else searched["int_low"])


def _high(searched: Searched) -> float:
    return float(searched["high"] if "high" in searched else searched["int_high"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)[:16]


def timeline(study: StudySummary) -> Html:
    """Which trial each worker trained when; failed ones hollow."""
    timed = [t for t in ran_here(study) if t["started"] and t["ended"]]
    lanes = list(dict.fromkeys(t["worker"] or "no worker" for t in timed))
    starts = [datetime.fromisoformat(t["started"]).timestamp() for t in timed]
    ends = [datetime.fromisoformat(t["ended"]).timestamp() for t in timed]
    origin, span = min(starts, default=0.0), max(ends, default=1.0) - min(starts, default=0.0)
    unit, name = (
        (3600.0, "hours") if span > 7200 else (60.0, "minutes") if span > 120 else (1.0, "s")
    )
    height = 70 + 26 * max(len(lanes), 1)

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes(
            (0.2, 44 / height, 0.78, 1 - 60 / height),
            xlim=(0, max(span / unit, 1e-9)),
            ylim=(max(len(lanes), 1), 0),
        )
        axes.set_yticks([n + 0.5 for n in range(len(lanes))], [lane[-24:] for lane in lanes])
        axes.set_xlabel(name)
        axes.xaxis.set_major_locator(MaxNLocator(8))
        for trial, start, end in zip(timed, starts, ends, strict=True):
            lane = lanes.index(trial["worker"] or "no worker")
            left, wide = (start - origin) / unit, (end - start) / unit
            failed = trial["state"] == "FAIL"
            box = Rectangle(
                (left, lane + 0.12),
                wide,
                0.76,
                facecolor="none" if failed else FILL,
                edgecolor=SOFT if failed else FILL,
                alpha=0.35 if trial["state"] == "PRUNED" else 0.75,
                linewidth=1,
            )
            axes.add_patch(box)
            # A number that does not fit into its box would overlap the next one.
            if wide * unit > span / 45:
                axes.text(
                    left + wide / 2, lane + 0.5, str(trial["number"]), ha="center", va="center"
                )

    description = "; ".join(
        f"trial {t['number']} on {t['worker']} for {end - start:.1f} s"
        for t, start, end in zip(timed, starts, ends, strict=True)
    )
    caption = "Trials by worker and time; stopped ones pale, failed ones hollow"
    return figure(
        caption, draw_svg(f"{caption}: {description or 'none'}", (_WIDE[0], height), draw)
    )


def front(study: StudySummary, x: int, y: int) -> Html:
    """Two objectives against each other; the trials of the Pareto front are connected."""
    names = [study["objectives"][k]["name"] for k in (x, y)]
    trials = [t for t in ran_here(study) if t["values"] and t["state"] != "FAIL"]
    best = sorted((t["values"][x], t["values"][y]) for t in trials if t["number"] in study["front"])

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.14, 0.15, 0.82, 0.8))
        others = [(t["values"][x], t["values"][y]) for t in trials]
        if others:
            across, up = zip(*others, strict=True)
            axes.scatter(across, up, s=30, facecolors="none", edgecolors=SOFT)
        if best:
            axes.plot(*zip(*best, strict=True), color=FILL, linewidth=1.25, marker="o")
        for trial in trials:
            if trial["number"] in study["front"]:
                axes.annotate(
                    str(trial["number"]),
                    (trial["values"][x], trial["values"][y]),
                    xytext=(5, 5),
                    textcoords="offset points",
                )
        axes.margins(0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])

    description = "; ".join(f"{a:.4g} and {b:.4g}" for a, b in best)
    caption = f"{names[0]} against {names[1]}"
    return figure(
        caption, draw_svg(f"{caption}, Pareto front: {description or 'none'}", (420, 320), draw)
    )
