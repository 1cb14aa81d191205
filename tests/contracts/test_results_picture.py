"""README's picture of results and its table show the raw JSON of the benchmark."""

from pathlib import Path

import pytest

from docs.make_results import SPLITS, read_rows

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "file", ["README.md", *(f"docs/pictures/results-{t}.svg" for t in ("light", "dark"))]
)
def test_the_shown_results_are_those_of_the_benchmark(file: str) -> None:
    shown = (ROOT / file).read_text("utf-8")
    rows = [row for title, split in SPLITS.items() for row in read_rows(title, split)]
    assert len(rows) == 6
    missing = [row for row in rows if f"{row['value']:.3f}" not in shown]
    assert not missing, f"{file}: run python docs/make_results.py"
