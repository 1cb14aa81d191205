"""Scorecards and findings on the terminal."""

import re

import pytest

from mbti_ray.cli import tables
from report_records import FINDINGS, NASTY, bare, scorecard

pytestmark = pytest.mark.unit


def test_the_screen_shows_one_scorecard_within_100_columns(capsys):
    tables.print_scorecard({"test": scorecard(3)})
    lines = capsys.readouterr().out.splitlines()
    # In a file a sentence is a line; tables have a width.
    assert max(len(line) for line in lines if "  " in line) <= 100
    shown = "\n".join(lines)
    assert re.search(
        r"E/I +0\.800 \(0\.780-0\.820\) +0\.760 \(0\.740-0\.780\) +0\.750 +0\.500 +0\.900", shown
    )
    assert re.search(r"all four +0\.520 \(0\.500-0\.540\)", shown)
    assert re.search(r"accuracy +this model +majority +most_mentioned ", shown)
    assert re.search(r"T/F +0\.860 +0\.700 +0\.750 +0\.700\n", shown)
    assert "tfidf is missing: scikit-learn is not installed" in shown
    assert "only 3 authors were scored: " in shown
    words = " ".join(shown.split())
    assert "mean +0.100 (+0.070 to +0.130, p 0.0004), macro-F1 +0.120 (+0.090 to +0.150)," in words


def test_the_screen_shows_two_scorecards_side_by_side(capsys):
    tables.print_scorecard({"masked [x]": scorecard(), "type words left in": bare(scorecard())})
    shown = capsys.readouterr().out
    assert re.search(r"masked \[x\] +type words left in", shown)
    assert re.search(r"J/P +0\.890 \(0\.870-0\.910\) +0\.890\n", shown)
    assert re.search(r"mean macro-F1 +0\.805 \(0\.785-0\.825\) +0\.805\n", shown)
    assert "Brier" not in shown


def test_the_screen_shows_a_bare_scorecard(capsys):
    tables.print_scorecard({"test": bare(scorecard())})
    shown = capsys.readouterr().out
    assert re.search(r"mean +0\.845 +0\.805 +0\.795 +0\.530 +- +0\.120", shown)
    assert "None" not in shown


def test_findings_are_one_line_each_and_one_with_what_to_try(capsys):
    tables.print_findings(FINDINGS)
    first, tries, second = capsys.readouterr().out.splitlines()
    assert first.startswith("overfitting: validation loss rose")
    assert first.endswith(NASTY)
    assert tries == "  try model.dropout=0.3 fit.patience=null"
    assert second == "weak (J/P): MCC 0.02"
