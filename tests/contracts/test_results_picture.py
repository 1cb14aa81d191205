"""README's pictures: of results, which are those of the benchmark, and of the demo."""

import re
from html import unescape
from pathlib import Path

import pytest
from terminal import foreign_lines

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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_recorded_demo_has_a_verdict_and_an_answer_and_nothing_foreign(theme: str) -> None:
    picture = (ROOT / "docs" / "pictures" / f"demo-{theme}.svg").read_text("utf-8")
    texts = [
        unescape(re.sub("<[^>]+>", "", text)) for text in re.findall("<text .*?</text>", picture)
    ]
    shown = "\n".join(texts)
    assert foreign_lines(shown) == []
    assert not re.search(r"/(work|root|home|tmp)/", shown)
    for words in (" a letter on ", " is ready; Ctrl-C stops it", '"probabilities"'):
        assert words in shown
