"""What a terminal of 80 or of 140 columns shows: no word is cut, and no line is too long."""

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mbti_ray.cli import progress, tables
from mbti_ray.cli.screen import build_console, wrap
from mbti_ray.config import load_run, load_study
from mbti_ray.study.records import TrialRecord
from report_records import FINDINGS, scorecard

pytestmark = pytest.mark.unit

WIDTHS = pytest.mark.parametrize("width", [80, 140])
COMPARISON: Any = {
    "differences": {
        "accuracy": {
            "first": 0.8,
            "second": 0.9,
            "value": 0.1,
            "low": 0.05,
            "high": 0.15,
            "p": 0.01,
        }
    },
    "flips": {key: {"corrected": 12, "spoiled": 3} for key in ("ei", "sn", "tf", "jp")},
}
SEARCH = ["optim.lr", "optim.weight_decay", "model.dropout", "loss.power.E", "loss.weight.E"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """What is printed on a terminal of that width."""
    written = io.StringIO()
    console: Console = build_console(file=written, width=width, force_terminal=True)
    monkeypatch.setattr(tables, "console", console)
    return written


def lines_of(written: io.StringIO) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
    return [line.rstrip() for line in plain.splitlines()]


def study_summary(search: list[str], trials: int = 3) -> dict[str, object]:
    return {
        "objectives": [{"name": "acc_mean", "direction": "maximize"}],
        "search": dict.fromkeys(search),
        "trials": [
            {
                "number": number,
                "imported": None,
                "state": "COMPLETE",
                "values": [0.9448],
                "epochs": 6,
                "seconds": 16.3,
                "params": {address: 0.00123456 for address in search},
            }
            for number in range(trials)
        ],
        "rungs": [],
        "front": [],
    }


@WIDTHS
def test_words_are_whole_and_lines_fit(terminal: io.StringIO, width: int) -> None:
    tables.print_verdict(scorecard(), None)
    tables.print_scorecard({"test": scorecard()})
    tables.print_comparison(COMPARISON)
    tables.print_findings(FINDINGS)
    tables.print_pairs([("search", "8 trials for acc_mean, " * 8), ("data", "a b c " * 40)])
    tables.print_warning("10 optimizer steps in 2 epochs are few to learn from; " * 4)
    tables.print_trials(study_summary(SEARCH))
    tables.print_trials(study_summary([f"{part}.{a}" for a in SEARCH for part in "ab"]))
    lines = lines_of(terminal)
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).split())
    # A word that was cut would have left its parts.
    assert {
        "most_mentioned_masked",
        "COMPLETE",
        "optimizer",
        "b.optim.weight_decay=0.00123",
    } <= words
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(("width", "intervals"), [(80, 1), (140, 2)])
def test_intervals_have_columns_where_there_is_room(terminal: io.StringIO, intervals: int) -> None:
    tables.print_scorecard({"test": scorecard()})
    (line,) = (line for line in lines_of(terminal) if line.startswith("E/I") and "(" in line)
    assert len(re.findall(r"\(0\.\d+-0\.\d+\)", line)) == intervals


@WIDTHS
def test_a_heading_is_the_last_part_of_a_key_and_more_where_two_are_alike(
    terminal: io.StringIO, width: int
) -> None:
    tables.print_trials(study_summary(SEARCH))
    shown = " ".join(lines_of(terminal))
    assert "optim." not in shown
    assert "power.E" in shown
    assert "weight.E" in shown


@pytest.mark.parametrize("width", [80])
def test_parameters_that_have_no_room_wrap_beside_their_trial(
    terminal: io.StringIO, width: int
) -> None:
    tables.print_trials(study_summary([f"optim.parameter_{n}" for n in range(12)], trials=1))
    heading, first, *rest = lines_of(terminal)
    assert heading.endswith("parameters")
    start = first.index("parameter_0=")
    assert all(line[:start].isspace() for line in rest)
    assert len(rest) > 3


@pytest.mark.parametrize("width", [60, 80, 140])
def test_a_prediction_is_whole_however_long_its_text(terminal: io.StringIO, width: int) -> None:
    prediction = {"type": "INTJ", "probabilities": {"E": 0.31, "N": 0.88, "T": 0.71, "J": 0.64}}
    tables.print_predictions(["some words " * 60, "短い文" * 90], [prediction, prediction])
    _, *lines = lines_of(terminal)
    assert all(line.startswith("INTJ  0.31  0.88  0.71  0.64  ") for line in lines)
    assert all(line.endswith("…") and cell_len(line) <= width for line in lines)


@pytest.mark.parametrize("width", [60])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_numbers(
    terminal: io.StringIO, width: int
) -> None:
    tables.print_scorecard({"test": scorecard()})
    tables.print_table("leak", ("of users",), [("the same after masking " * 3, "21.7 %")])
    lines = lines_of(terminal)
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("E/I")]
    assert len(rows) == 2
    assert all(re.fullmatch(r"E/I( +\d\.\d{3})+", row) for row in rows)


def test_a_long_word_stays_whole_so_that_it_can_be_copied() -> None:
    path = "/a/" + "long" * 30 + "/path.csv"
    assert path in wrap(f"the file {path} is not there", 80)


def record(epoch: int, *, best_epoch: int, finished: bool = False) -> dict[str, object]:
    return {
        "epoch": epoch,
        "train": {"loss": 0.69},
        "val": {"loss": 0.6123, "acc_mean": 0.8125, "f1_mean": 0.7},
        "seconds": 2.0 * epoch,
        "best": 0.8125,
        "best_epoch": best_epoch,
        "finished": finished,
    }


def test_the_first_line_says_the_versions_and_the_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress.print_opening()
    line = capsys.readouterr().err.strip()
    assert re.fullmatch(
        r"mbti-ray [\d.]+, Python [\d.]+, torch \S+, \d+ cores?, (no|\d+) GPUs?", line
    )


def test_a_run_reports_each_epoch_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.run_progress(load_run("quick", ["fit.epochs=10"])) as shown:
        shown.advance(20, 100, "epoch 1 loss 0.7")
        shown.add_epoch(record(1, best_epoch=1))
        shown.add_epoch(record(2, best_epoch=1, finished=True))
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "starting workers ...",
        "  epoch    loss  val loss  accuracy  macro-F1     best  seconds     left",
        "   1/10  0.6900    0.6123    0.8125    0.7000  0.8125*      2.0     0:18",
        "   2/10  0.6900    0.6123    0.8125    0.7000  0.8125       4.0        -",
        "stopped early: acc_mean has not improved since epoch 1",
    ]


def test_a_study_reports_each_trial_the_best_and_the_time_left_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.study_progress(load_study(None, ["study.trials=4"])) as shown:
        shown.begin([TrialRecord(0, "COMPLETE", [0.7])])
        shown.add_epoch(1, 1, 0.8)
        now += 40
        shown.add_epoch(1, 2, 0.75)
        shown.add_epoch(2, 1, 0.6)
        shown.end_trial(TrialRecord(1, "PRUNED", [0.8], epochs=2))
        shown.end_trial(TrialRecord(2, "FAIL", reason="the loss is nan"))
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "running: trial 1 epoch 2 acc_mean 0.7500; best acc_mean 0.8000 (trial 1)",
        "trial 1 PRUNED 0.8000 in 2 epochs; best acc_mean 0.8000 (trial 1), 1:20 left",
        "trial 2 FAIL the loss is nan; best acc_mean 0.8000 (trial 1), 1:20 left",
    ]
