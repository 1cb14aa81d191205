"""Drawing with matplotlib into inline SVG that takes its colors from the page.

Never through pyplot. The output has no script, address, id or color of its own (colors are in the
page's style sheet), and is the same for the same data. matplotlib's settings are changed while a
chart is drawn, so no two threads may draw at once. Must not know what is drawn.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib import style
from matplotlib.figure import Figure

from mbti_ray.reports.html import Html

# Placeholders that are replaced by the page's colors in what matplotlib writes.
INK, SOFT, LINE, FILL = "#010101", "#020202", "#030303", "#040404"
_NAMES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", FILL: "var(--fill)"}
_SETTINGS = {
    # Text stays text, in the page's font; names are not formulas.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "grid.color": LINE,
    "legend.frameon": False,
}
_FONT = re.compile(r"font-family: [^;]*;?")
LEGEND: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (-0.14, 1),
    "ncols": 3,
    "columnspacing": 1,
    "handlelength": 1.8,
    "fontsize": 10,
}


def draw_svg(label: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Html:
    """What `draw` draws on a canvas of a size in CSS pixels; `label` is for screen readers."""
    file = io.StringIO()
    # After a reset, so that a user's matplotlibrc does not change the chart.
    with style.context([_SETTINGS], after_reset=True):
        canvas = Figure(figsize=(size[0] / 72, size[1] / 72), frameon=False)
        draw(canvas)
        canvas.savefig(file, format="svg")
    # Without the document type, which only a standalone file needs.
    svg = file.getvalue()
    return _inline(ET.fromstring(svg[svg.index("<svg") :]), label)


def _inline(svg: ET.Element, label: str) -> Html:
    """The drawing alone: no metadata, style sheets, clips or ids, and every `use` expanded."""
    shapes = {e.get("id"): e for e in svg.iter() if e.get("id")}
    root = ET.Element("svg", {"viewBox": svg.get("viewBox", "")}, role="img")
    root.set("width", svg.get("viewBox", "").split()[2])
    root.set("aria-label", label)
    for child in svg:
        _copy(child, root, shapes)
    return Html(ET.tostring(root, "unicode", short_empty_elements=False))


def _copy(element: ET.Element, parent: ET.Element, shapes: Mapping[str | None, ET.Element]) -> None:
    # Tags are "{namespace}tag"; inside HTML the namespace is implied.
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
    """With the page's colors in place of the placeholders, and the page's font."""
    for color, name in _NAMES.items():
        declarations = declarations.replace(color, name)
    return _FONT.sub("", declarations)
