"""The Grafana dashboard shows the figures that there are, all of them and no others."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]
# What Prometheus adds to the names of counters and histograms.
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def panels() -> list[dict[str, Any]]:
    board = json.loads((ROOT / "dashboards" / "grafana.json").read_text("utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def shown() -> set[str]:
    """The metrics in the dashboard, without what Ray and Prometheus put around their names."""
    queries = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    found = set()
    for name in re.findall(r"ray_(mbti_\w+)", queries):
        suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
        found.add(name.removesuffix(suffix))
    return found


def test_the_dashboard_shows_every_figure_and_only_those() -> None:
    source = (ROOT / "mbti_ray" / "on_ray" / "gauges.py").read_text("utf-8")
    words = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    made = {word for word in words if re.fullmatch(r"mbti_(train|val|serve)_\w+", word)}
    assert len(made) > 10
    assert shown() == made


def test_every_panel_has_a_title_a_unit_and_a_place_of_its_own() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in panels()]
    assert len(set(places)) == len(places)
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
