"""Write the table of docs/benchmarks.md from the JSON that the quick forms of the benchmarks left.

python benchmarks/tables.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- quick forms: written by benchmarks/tables.py -->", "<!-- end of quick forms -->"
# Of each record: how it was made, and what it measured in more detail.
_NOT_SHOWN = {"command", "machine", "load_before", "task", "measured", "errors", "loss"}


def render_page(page: str) -> str:
    """The page with its table written anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{render_table()}\n{END}{rest.split(END)[1]}"


def render_table() -> str:
    """A row for each figure of each result, by the name that it has there."""
    lines = ["| `--quick` of | figure | measured |", "|---|---|---|"]
    for file in sorted(RESULTS.glob("*_quick.json")):
        record = json.loads(file.read_text("utf-8"))
        name = file.stem.removesuffix("_quick")
        for figure, text in _figures(record.get("medians", record)):
            lines.append(f"| {name} | {figure} | {text} |")
            name = ""
    return "\n".join(lines)


def _figures(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for figure, value in record.items():
        if figure in _NOT_SHOWN or value in (None, {}):
            continue
        if isinstance(value, dict):
            yield figure, ", ".join(f"{name} {_short(part)}" for name, part in value.items())
        else:
            yield figure, _short(value)


def _short(value: Any) -> str:
    if isinstance(value, dict):  # by the number of clients
        return " / ".join(_short(part) for part in value.values())
    if not isinstance(value, float):
        return f"{value}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text("utf-8")), "utf-8")
