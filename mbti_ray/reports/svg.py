"""Drawing with matplotlib into inline SVG that takes its colours from the page.

Never through pyplot. What comes out holds no script, no address, no id and no colour of its own
(the page's style sheet has them), and is the same for the same figures. The settings of matplotlib
are changed while a picture is drawn: no two threads may draw at once. Must not know what is drawn.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib import style
from matplotlib.figure import Figure

from mbti_ray.reports.html import Html

# Stand-ins by which the colours of the page are found again in what matplotlib writes.
INK, SOFT, LINE, FILL = "#010101", "#020202", "#030303", "#040404"
_NAMES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", FILL: "var(--fill)"}
_LOOK = {
    # Text stays text, in the font of the page; names are not formulas.
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


def picture(label: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Html:
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
