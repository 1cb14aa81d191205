"""The Grafana dashboard and docs/dashboard.md have the figures that there are, and no others."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboard_queries import PROMETHEUS_CONFIG, queries_of_grafana, queries_of_the_page

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]
# What Prometheus adds to the names of counters and histograms.
SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def panels() -> list[dict[str, Any]]:
    board = json.loads((ROOT / "dashboards" / "grafana.json").read_text("utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def named_in(text: str) -> set[str]:
    """The metrics in a text, without what Ray and Prometheus put around their names."""
    found = set()
    for name in re.findall(r"\b(?:ray_)?(mbti_(?:train|val|serve)_\w+)", text):
        suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
        found.add(name.removesuffix(suffix))
    return found


def made() -> set[str]:
    words = {
        node.value
        for source in (ROOT / "mbti_ray" / "on_ray").rglob("metrics.py")
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {word for word in words if re.fullmatch(r"mbti_(train|val|serve)_\w+", word)}


def test_the_dashboard_and_the_page_have_every_figure_and_only_those() -> None:
    assert len(made()) > 10
    assert named_in(" ".join(queries_of_grafana())) == made()
    assert named_in((ROOT / "docs" / "dashboard.md").read_text("utf-8")) == made()


def test_every_picture_of_the_page_is_there_and_small() -> None:
    page = (ROOT / "docs" / "dashboard.md").read_text("utf-8")
    used = set(re.findall(r"\(images/([\w-]+\.png)\)", page))
    there = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert used == set(there)
    assert max(there.values()) < 150_000


def test_prometheus_takes_the_config_and_can_read_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool on PATH (Debian: apt-get install prometheus)")
    queries = [*queries_of_grafana(), *queries_of_the_page()]
    rules = [{"record": f"query_{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), "utf-8")
    for kind, path in (("config", PROMETHEUS_CONFIG), ("rules", file)):
        command = [promtool, "check", kind, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    register_default_plugins()
    given = json.loads((ROOT / "dashboards" / "grafana.json").read_text("utf-8"))
    read = JSONEncoder(sort_keys=True).encode(Dashboard.from_json(given))
    # What its types do not know they do not give back; what was left out they fill in.
    assert holds(json.loads(read), given)


def holds(more: Any, less: Any) -> bool:
    """Whether everything in `less` is in `more`, too."""
    if isinstance(less, dict):
        return all(key in more and holds(more[key], value) for key, value in less.items())
    if isinstance(less, list):
        return len(more) == len(less) and all(map(holds, more, less))
    return bool(more == less)


def test_every_panel_has_a_title_a_unit_and_a_place_of_its_own() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in panels()]
    assert len(set(places)) == len(places)
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
