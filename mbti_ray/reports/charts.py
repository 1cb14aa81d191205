"""Charts of scores as inline SVG: bars, reliability, confusion matrices, learning curves.

Knows records as scores.json holds them; `svg` knows how a chart becomes SVG.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mbti_ray.reports.html import Html, figure, side_by_side
from mbti_ray.reports.svg import FILL, INK, LEGEND, SOFT, draw_svg
from mbti_ray.typology import DIMENSIONS, Dimension

# A name, a length in any unit, and its label.
Bar = tuple[str, float, str]
# A JSON object of scores.json or metrics.jsonl.
Record = Mapping[str, Any]

# Areas in square points.
_MIN_DOT, _ALL_DOTS = 9.0, 700.0


def bars(caption: str, lengths: Sequence[Bar]) -> Html:
    """Horizontal bars, each with its name on the left and its label on the right."""
    step, left, max_length, width = 20, 104, 230, 400
    longest = max((length for _, length, _ in lengths), default=0) or 1
    height = step * max(len(lengths), 1)

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for index, (name, length, label) in enumerate(lengths):
            middle, long = step * (index + 0.5), max_length * length / longest
            axes.text(left - 8, middle, name, ha="right", va="center")
            axes.barh(middle, long, height=14, left=left, color=FILL)
            axes.text(left + long + 6, middle, label, va="center")

    description = "; ".join(f"{name}: {label}" for name, _, label in lengths)
    return figure(caption, draw_svg(f"{caption}: {description}", (width, height), draw))


def reliability(dimensions: Record) -> Html:
    """Four diagrams: how often the label is the positive pole, by predicted probability.

    The area of a dot is its share of the rows; on the diagonal the model is calibrated.
    """
    return side_by_side(_reliability(d, dimensions[d.key]["reliability"]) for d in DIMENSIONS)


def _reliability(dimension: Dimension, bins: Sequence[Record]) -> Html:
    filled = [b for b in bins if b["count"]]
    predicted = [b["probability"] for b in filled]
    observed = [b["positive"] for b in filled]
    rows = sum(b["count"] for b in filled)
    areas = [max(_MIN_DOT, _ALL_DOTS * b["count"] / rows) for b in filled]

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.16, 0.15, 0.8, 0.82), xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 4)))
        axes.plot(predicted, observed, color=FILL, linewidth=1.5)
        axes.scatter(predicted, observed, s=areas, color=FILL, alpha=0.55, linewidth=0)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"predicted probability of {dimension.positive}")
        axes.set_ylabel(f"share of rows that are {dimension.positive}")

    description = "; ".join(
        f"predicted {b['probability']:.2f}, observed {b['positive']:.2f} ({b['count']:.0f} rows)"
        for b in filled
    )
    label = f"Reliability of {dimension.name}: {description or 'no rows'}"
    return figure(dimension.name, draw_svg(label, (330, 320), draw))


def confusions(dimensions: Record) -> Html:
    """Four matrices: rows are labels, columns predictions; darker is a larger share of the row."""
    panels = [_confusion(d, dimensions[d.key]["confusion"]) for d in DIMENSIONS]
    return side_by_side(panels, is_small=True)


def _confusion(dimension: Dimension, counts: Record) -> Html:
    poles = (dimension.positive, dimension.negative)
    rows = ((counts["tp"], counts["fn"]), (counts["fp"], counts["tn"]))

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.17, 0.03, 0.81, 0.83), xlim=(0, 2), ylim=(2, 0))
        axes.set_axis_off()
        for index, (pole, row) in enumerate(zip(poles, rows, strict=True)):
            axes.text(index + 0.5, -0.12, f"predicted {pole}", ha="center", color=SOFT)
            axes.text(-0.08, index + 0.5, f"is {pole}", ha="right", va="center", color=SOFT)
            for column, count in enumerate(row):
                _cell(axes, column, index, count, sum(row))

    description = ", ".join(
        f"of {sum(row):,.0f} that are {pole}, {row[index]:,.0f} were predicted {pole}"
        for index, (pole, row) in enumerate(zip(poles, rows, strict=True))
    )
    drawn = draw_svg(f"Predictions for {dimension.name}: {description}", (216, 160), draw)
    return figure(dimension.name, drawn)


def _cell(axes: Axes, column: int, row: int, count: float, of: float) -> None:
    share = count / of if of else 0.0
    # Never so dark that the numbers on it are unreadable, in light or dark mode.
    axes.add_patch(
        Rectangle(
            (column + 0.02, row + 0.02),
            0.96,
            0.96,
            facecolor=FILL,
            alpha=0.05 + 0.4 * share,
            linewidth=0,
        )
    )
    axes.text(column + 0.5, row + 0.42, f"{count:,.0f}", ha="center", va="center")
    axes.text(
        column + 0.5,
        row + 0.7,
        f"{100 * share:.0f} %",
        ha="center",
        va="center",
        fontsize=9.5,
    )


def learning_curves(history: Sequence[Record]) -> Html:
    """Loss and mean accuracy after each epoch, training and validation; empty without epochs."""
    if not history:
        return Html("")
    return side_by_side(
        (
            _curves(
                "loss", history, {"training": ("train", "loss"), "validation": ("val", "loss")}
            ),
            _curves(
                "mean accuracy",
                history,
                {
                    "training": ("train", "acc_mean"),
                    "validation": ("val", "acc_mean"),
                    "majority class": ("val", "majority_mean"),
                },
            ),
        )
    )


# Distinguished by dashes as well as by color.
_STROKES: dict[str, tuple[str, Any]] = {
    "training": (SOFT, (0, (5, 3))),
    "validation": (FILL, "solid"),
    "majority class": (INK, (0, (1, 2))),
}


def _curves(caption: str, history: Sequence[Record], lines: Mapping[str, tuple[str, str]]) -> Html:
    """One diagram; `lines` maps the name of a stroke to a split and a score."""
    curves = {name: _points(history, *source) for name, source in lines.items()}
    curves = {name: points for name, points in curves.items() if points}
    epochs = [entry["epoch"] for entry in history]

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.15, 0.16, 0.82, 0.72))
        for name, points in curves.items():
            x, y = zip(*points, strict=True)
            color, dashes = _STROKES[name]
            axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.75, label=name)
            axes.scatter(x, y, s=14, color=color, linewidth=0)
        axes.set_xlim(min(epochs) - 0.25, max(epochs) + 0.25)
        axes.margins(y=0.12)
        axes.grid(axis="y", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("epoch")
        if curves:
            axes.legend(**LEGEND)

    description = "; ".join(
        f"{name} {points[0][1]:.3f} first, {points[-1][1]:.3f} last"
        for name, points in curves.items()
    )
    return figure(
        caption, draw_svg(f"{caption} by epoch: {description or 'none'}", (330, 240), draw)
    )


def _points(history: Sequence[Record], split: str, key: str) -> list[tuple[float, float]]:
    values = [(entry["epoch"], (entry.get(split) or {}).get(key)) for entry in history]
    return [(epoch, value) for epoch, value in values if value is not None]
