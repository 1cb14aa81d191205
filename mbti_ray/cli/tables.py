"""Tables and lines on the terminal: scores, trials, predictions, findings, warnings.

Takes plain records and imports nothing heavy; must not know where the records come from.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mbti_ray.cli.screen import build_console
from mbti_ray.scores.names import (
    COMPARED_NAMES,
    DIMENSION_NAMES,
    FEW_PERSONS,
    METRIC_NAMES,
    RATE_NAMES,
    rates_of,
)
from mbti_ray.scores.verdict import describe_paired, format_difference, verdict

if TYPE_CHECKING:
    from mbti_ray.scores.comparison import Comparison
    from mbti_ray.scores.findings import FindingRecord
    from mbti_ray.scores.scorecard import Scorecard
    from mbti_ray.scores.study_summary import StudySummary

# What a command prints as JSON.
Result = Mapping[str, Any]
_SHOWN_BAD_ROWS = 10
# Accuracy and macro-F1 come first, with their intervals.
_OTHER_METRICS = [key for key in METRIC_NAMES if key not in ("accuracy", "macro_f1")]
# The width is fixed where the output is a file, so that logs of two runs can be diffed.
console = build_console(width=None if sys.stdout.isatty() else 100)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """A list of headings, each with a sentence."""
    table = Table.grid(padding=(0, 2))
    for heading, text in pairs:
        table.add_row(Text(heading, style="bold"), text)
    console.print(table)


def print_warning(line: str) -> None:
    """A problem that does not stop the command."""
    console.print(line, style="yellow", soft_wrap=True)


def print_bad_rows(source: str, rows: Sequence[Mapping[str, Any]], listed_in: object) -> None:
    """The first of the rows that were left out of the data, with the reasons."""
    for row in rows[:_SHOWN_BAD_ROWS]:
        console.print(f"{source}:{row['number']}: left out: {row['reason']}")
    if len(rows) > _SHOWN_BAD_ROWS:
        console.print(f"... and {len(rows) - _SHOWN_BAD_ROWS} more, all in {listed_in}")


def print_scores(split: str, scores: Mapping[str, float]) -> None:
    """Accuracy and macro-F1 of a split, and the accuracy of always predicting the majority."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in (f"{split} accuracy", "majority", "macro-F1"):
        table.add_column(heading, justify="right")
    for key, name in (DIMENSION_NAMES | {"mean": "mean", "total": "all four"}).items():
        cells = [scores.get(f"{kind}_{key}") for kind in ("acc", "majority", "f1")]
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    table.add_row("loss", f"{scores['loss']:.3f}")
    table.add_row("rows", f"{scores['rows']:.0f}")
    console.print(table)


def print_verdict(card: "Scorecard", data_info: Mapping[str, Any] | None) -> str:
    """The verdict on the test split, which it also returns."""
    sentence = verdict(card, data_info)
    console.print(sentence, style="bold", markup=False, soft_wrap=True)
    return sentence


def print_scorecard(scorecards: Mapping[str, "Scorecard"]) -> None:
    """One scorecard with all its metrics, or the accuracies of several side by side.

    Below it the baselines of the first one, and how the model compares with the best of them.
    """
    main, *others = scorecards.values()
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    if others:
        for heading in scorecards:
            table.add_column(heading, justify="right")
    else:
        for metric in ("accuracy", "macro_f1", *_OTHER_METRICS):
            table.add_column(METRIC_NAMES[metric].replace(" ", "\n"), justify="right")
    for key, name in RATE_NAMES.items():
        cells = [_interval(rates_of(card)[key]) for card in scorecards.values()]
        row = main["dimensions"].get(key) or (main["overall"] if key == "accuracy" else {})
        if row and not others:
            cells += [_interval(row["macro_f1"]), *(_value(row.get(m)) for m in _OTHER_METRICS)]
        table.add_row(name, *cells)
    if others:
        f1 = [_interval(card["overall"]["macro_f1"]) for card in scorecards.values()]
        table.add_row("mean macro-F1", *f1)
    console.print(table)
    if main["intervals"]["groups"] < FEW_PERSONS:
        console.print(
            f"only {main['intervals']['groups']} {main['intervals']['resampled']}(s) were scored: "
            "take these scores, and any interval, as a rough guide",
            style="yellow",
        )
    _print_baselines(main)


def _print_baselines(card: "Scorecard") -> None:
    baselines, missing = card.get("baselines") or {}, card.get("missing") or {}
    if baselines:
        table = Table(box=None, pad_edge=False)
        table.add_column("baseline accuracy")
        for name in COMPARED_NAMES.values():
            table.add_column(name, justify="right")
        for name, rates in baselines.items():
            table.add_row(name, *(_value(rates.get(key)) for key in COMPARED_NAMES))
        console.print()
        console.print(table)
    for name, reason in missing.items():
        console.print(f"{name} is missing: {reason}")
    if card.get("paired"):
        console.print(describe_paired(card), markup=False)


def print_comparison(found: "Comparison") -> None:
    """How the second of two bundles differs from the first, and whose letters flipped."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "A", "B", "B - A"):
        table.add_column(heading, justify="left" if heading in ("", "B - A") else "right")
    for name, difference in found["differences"].items():
        cells = [f"{difference[which]:.3f}" for which in ("first", "second")]
        label = (RATE_NAMES | METRIC_NAMES)[name]
        table.add_row(label, *cells, format_difference(difference))
    console.print(table)
    flips = (
        f"{DIMENSION_NAMES[key]} {n['corrected']} corrected, {n['spoiled']} spoiled"
        for key, n in found["flips"].items()
    )
    console.print(f"letters that flipped: {'; '.join(flips)}", soft_wrap=True)


def _value(interval: Mapping[str, Any] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.3f}"


def _interval(interval: Mapping[str, Any] | None) -> str:
    """`0.887 (0.861-0.910)`, or the value alone."""
    if interval is None or interval["low"] is None or interval["high"] is None:
        return _value(interval)
    return f"{_value(interval)} ({interval['low']:.3f}-{interval['high']:.3f})"


def print_findings(findings: Sequence["FindingRecord"]) -> None:
    """One line each: the problem, the evidence, and the values to try as shell arguments."""
    for finding in findings:
        console.print(finding["line"], soft_wrap=True)


def format_values(values: Sequence[float] | None) -> str:
    """A trial's values of the objectives, as a table or progress bar shows them."""
    return ", ".join(f"{v:.4f}" for v in values) if values else "-"


def print_trials(study: "StudySummary") -> None:
    """One line a trial: its parameters and its result; then how many passed each rung."""
    table = Table(box=None, pad_edge=False)
    objectives = ", ".join(o["name"] for o in study["objectives"])
    for heading in ("trial", "state", objectives, "epochs", "seconds", *study["search"]):
        table.add_column(
            heading, justify="left" if heading == "state" else "right", overflow="fold"
        )
    for trial in study["trials"]:
        table.add_row(
            str(trial["number"]),
            "imported" if trial["imported"] else trial["state"],
            format_values(trial["values"]),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(format_short(trial["params"].get(address, "-")) for address in study["search"]),
        )
    console.print(table)
    for rung in study["rungs"]:
        promoted = rung["reached"] - rung["stopped"]
        console.print(f"epoch {rung['epoch']}: {promoted} of {rung['reached']} trials continued")
    if study["front"]:
        front = ", ".join(map(str, study["front"]))
        console.print(f"Pareto front of {objectives}: trials {front}")


def format_short(value: object) -> str:
    """A config value as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_predictions(texts: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> None:
    """One line a text: its type, the probabilities of E, N, T and J, and how the text starts."""
    table = Table(box=None, pad_edge=False)
    poles = list(predictions[0]["probabilities"])
    for heading in ("type", *poles, "text"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for text, prediction in zip(texts, predictions, strict=True):
        probabilities = [f"{p:.2f}" for p in prediction["probabilities"].values()]
        table.add_row(prediction["type"], *probabilities, Text(" ".join(text.split())))
    console.print(table)
