"""Pictures as inline SVG: bars, reliability, confusion matrices, learning curves.

Drawn with matplotlib, never through pyplot. What comes out holds no script, no address, no id and
no colour of its own (the page's style sheet has them), and is the same for the same figures. The
settings of matplotlib are changed while a picture is drawn: no two threads may draw at once.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mbti_ray.pages.html import Html, figure, side_by_side
from mbti_ray.typology import DIMENSIONS, Dimension

# A name, a length in any unit, and the length as people read it.
Bar = tuple[str, float, str]
Figures = Mapping[str, Any]

# Stand-ins by which the colours of the page are found again in what matplotlib writes.
_INK, _SOFT, _LINE, _FILL = "#010101", "#020202", "#030303", "#040404"
_NAMES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)", _FILL: "var(--fill)"}
_LOOK = {
    # Text stays text, in the font of the page; names are not formulas.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "grid.color": _LINE,
    "legend.frameon": False,
}
_FONT = re.compile(r"font-family: [^;]*;?")
_LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (-0.14, 1),
    "ncols": 3,
    "columnspacing": 1,
    "handlelength": 1.8,
    "fontsize": 10,
}
_LEAST_DOT, _ALL_DOTS = 9.0, 700.0


def bars(caption: str, lengths: Sequence[Bar]) -> Html:
    """Horizontal bars, each with its name before and its length behind."""
    step, left, room, width = 20, 104, 230, 400
    longest = max((length for _, length, _ in lengths), default=0) or 1
    height = step * max(len(lengths), 1)

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for place, (name, length, label) in enumerate(lengths):
            middle, long = step * (place + 0.5), room * length / longest
            axes.text(left - 8, middle, name, ha="right", va="center")
            axes.barh(middle, long, height=14, left=left, color=_FILL)
            axes.text(left + long + 6, middle, label, va="center")

    told = "; ".join(f"{name}: {label}" for name, _, label in lengths)
    return figure(caption, _picture(f"{caption}: {told}", (width, height), draw))


def reliability(dimensions: Figures) -> Html:
    """Four diagrams: how often the positive pole is true where it was given that probability.

    The area of a dot is its share of the rows; on the diagonal, probabilities mean what they say.
    """
    return side_by_side(_reliability(d, dimensions[d.key]["reliability"]) for d in DIMENSIONS)


def _reliability(dimension: Dimension, bins: Sequence[Figures]) -> Html:
    filled = [b for b in bins if b["count"]]
    given = [b["probability"] for b in filled]
    true = [b["positive"] for b in filled]
    rows = sum(b["count"] for b in filled)
    areas = [max(_LEAST_DOT, _ALL_DOTS * b["count"] / rows) for b in filled]

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.16, 0.15, 0.8, 0.82), xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 4)))
        axes.plot(given, true, color=_FILL, linewidth=1.5)
        axes.scatter(given, true, s=areas, color=_FILL, alpha=0.55, linewidth=0)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"probability given to {dimension.positive}")
        axes.set_ylabel(f"share that is {dimension.positive}")

    told = "; ".join(
        f"given {b['probability']:.2f}, true {b['positive']:.2f} ({b['count']:.0f} rows)"
        for b in filled
    )
    label = f"Reliability of {dimension.name}: {told or 'no rows'}"
    return figure(dimension.name, _picture(label, (330, 320), draw))


def confusions(dimensions: Figures) -> Html:
    """Four matrices: a row is a label, a column an answer; the darker, the more of the row."""
    panels = [_confusion(d, dimensions[d.key]["confusion"]) for d in DIMENSIONS]
    return side_by_side(panels, is_small=True)


def _confusion(dimension: Dimension, counts: Figures) -> Html:
    poles = (dimension.positive, dimension.negative)
    rows = ((counts["tp"], counts["fn"]), (counts["fp"], counts["tn"]))

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.17, 0.03, 0.81, 0.83), xlim=(0, 2), ylim=(2, 0))
        axes.set_axis_off()
        for place, (pole, row) in enumerate(zip(poles, rows, strict=True)):
            axes.text(place + 0.5, -0.12, f"answered {pole}", ha="center", color=_SOFT)
            axes.text(-0.08, place + 0.5, f"is {pole}", ha="right", va="center", color=_SOFT)
            for column, count in enumerate(row):
                _cell(axes, column, place, count, sum(row))

    told = ", ".join(
        f"of {sum(row):,.0f} that are {pole}, {row[place]:,.0f} were answered {pole}"
        for place, (pole, row) in enumerate(zip(poles, rows, strict=True))
    )
    picture = _picture(f"Answers for {dimension.name}: {told}", (216, 160), draw)
    return figure(dimension.name, picture)


def _cell(axes: Axes, column: int, place: int, count: float, of: float) -> None:
    share = count / of if of else 0.0
    # Never so dark that the figures on it could not be read, in light and in dark.
    axes.add_patch(
        Rectangle(
            (column + 0.02, place + 0.02),
            0.96,
            0.96,
            facecolor=_FILL,
            alpha=0.05 + 0.4 * share,
            linewidth=0,
        )
    )
    axes.text(column + 0.5, place + 0.42, f"{count:,.0f}", ha="center", va="center")
    axes.text(
        column + 0.5,
        place + 0.7,
        f"{100 * share:.0f} %",
        ha="center",
        va="center",
        fontsize=9.5,
    )


def learning_curves(history: Sequence[Figures]) -> Html:
    """Loss and mean accuracy after each epoch, training and validation, or nothing."""
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
                    "commonest answer": ("val", "majority_mean"),
                },
            ),
        )
    )


# Told apart by their dashes as well as by colour.
_STROKES: dict[str, tuple[str, Any]] = {
    "training": (_SOFT, (0, (5, 3))),
    "validation": (_FILL, "solid"),
    "commonest answer": (_INK, (0, (1, 2))),
}


def _curves(caption: str, history: Sequence[Figures], lines: Mapping[str, tuple[str, str]]) -> Html:
    """One diagram; `lines` are a split and a score by the name of a stroke."""
    found = {name: _points(history, *place) for name, place in lines.items()}
    found = {name: points for name, points in found.items() if points}
    epochs = [entry["epoch"] for entry in history]

    def draw(canvas: Figure) -> None:
        axes = canvas.add_axes((0.15, 0.16, 0.82, 0.72))
        for name, points in found.items():
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
        if found:
            axes.legend(**_LEGEND)

    told = "; ".join(
        f"{name} {points[0][1]:.3f} at first, {points[-1][1]:.3f} at last"
        for name, points in found.items()
    )
    return figure(caption, _picture(f"{caption} by epoch: {told or 'none'}", (330, 240), draw))


def _points(history: Sequence[Figures], split: str, key: str) -> list[tuple[float, float]]:
    values = [(entry["epoch"], (entry.get(split) or {}).get(key)) for entry in history]
    return [(epoch, value) for epoch, value in values if value is not None]


def _picture(label: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Html:
    """What `draw` draws on an empty canvas of so many CSS pixels; `label` is read to the blind."""
    file = io.StringIO()
    # After a reset: somebody's matplotlibrc must not change the picture.
    with style.context([_LOOK], after_reset=True):
        canvas = Figure(figsize=(size[0] / 72, size[1] / 72), frameon=False)
        draw(canvas)
        canvas.savefig(file, format="svg")
    # Without the document type, which only a file of its own needs.
    written = file.getvalue()
    return _inlined(ET.fromstring(written[written.index("<svg") :]), label)


def _inlined(svg: ET.Element, label: str) -> Html:
    """The drawing alone: no metadata, style sheets, clips or ids, and every `use` written out."""
    shapes = {e.get("id"): e for e in svg.iter() if e.get("id")}
    root = ET.Element("svg", {"viewBox": svg.get("viewBox", "")}, role="img")
    root.set("width", svg.get("viewBox", "").split()[2])
    root.set("aria-label", label)
    for child in svg:
        _copy(child, root, shapes)
    return Html(ET.tostring(root, "unicode", short_empty_elements=False))


def _copy(element: ET.Element, parent: ET.Element, shapes: Mapping[str | None, ET.Element]) -> None:
    # Tags come as "{namespace}tag"; inside HTML the namespace is implied.
    tag = element.tag.rpartition("}")[2]
    if tag in ("metadata", "defs"):
        return
    kept = {
        key: _themed(value)
        for key, value in element.attrib.items()
        if key in ("d", "x", "y", "style", "transform", "points")
    }
    if tag == "use":
        href = next(v for k, v in element.attrib.items() if k.endswith("href"))
        shape = shapes[href.removeprefix("#")]
        tag = "path"
        own = _themed(shape.get("style", ""))
        kept = {
            "d": shape.get("d", ""),
            "transform": f"translate({element.get('x', 0)} {element.get('y', 0)})",
            "style": "; ".join(part for part in (kept.get("style"), own) if part),
        }
    copy = ET.SubElement(parent, tag, {k: " ".join(v.split()) for k, v in kept.items()})
    copy.text = (element.text or "").strip()
    for child in element:
        _copy(child, copy, shapes)


def _themed(declarations: str) -> str:
    """With the page's colours for the stand-ins, and the page's font."""
    for color, name in _NAMES.items():
        declarations = declarations.replace(color, name)
    return _FONT.sub("", declarations)
