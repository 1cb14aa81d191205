"""The queries that the Grafana dashboard and docs/dashboard.md give to Prometheus."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMETHEUS_CONFIG = ROOT / "dashboards" / "prometheus.yml"
# What Grafana would put in.
_VARIABLES = {"$__rate_interval": "1m", "$run": ".*"}


def queries_of_grafana() -> list[str]:
    board = json.loads((ROOT / "dashboards" / "grafana.json").read_text("utf-8"))
    queries = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    for name, value in _VARIABLES.items():
        queries = [query.replace(name, value) for query in queries]
    return queries


def queries_of_the_page() -> list[str]:
    page = (ROOT / "docs" / "dashboard.md").read_text("utf-8")
    blocks = re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]
