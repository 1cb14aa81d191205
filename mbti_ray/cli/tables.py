"""Tables and lines on the terminal: scores, trials, predictions, findings, warnings.

Takes plain records; must not know where they come from.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Result = Mapping[str, Any]
_SHOWN_BAD_ROWS = 10
# Intervals of fewer groups are too narrow to be taken at their word.
_FEW_GROUPS = 20
_DIMENSIONS = {"ei": "E/I", "sn": "S/N", "tf": "T/F", "jp": "J/P"}
_RATES = _DIMENSIONS | {
    "accuracy": "mean",
    "all_four": "all four",
    "at_least_three": "at least three",
}
_METRICS = {
    "balanced_accuracy": "balanced",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "brier": "Brier",
    "ece": "ECE",
}
# Width is fixed where nobody looks, so that logs of two runs can be compared line by line.
console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """A list of headings with a sentence each."""
    table = Table.grid(padding=(0, 2))
    for heading, text in pairs:
        table.add_row(f"[bold]{heading}[/bold]", text)
    console.print(table)


def print_warning(line: str) -> None:
    """What is not as it should be, though it goes on."""
    console.print(line, style="yellow", markup=False, soft_wrap=True)


def print_bad_rows(source: str, rows: Sequence[Mapping[str, Any]], kept_in: object) -> None:
    """The rows that were left out of the data, the first of them by name."""
    for row in rows[:_SHOWN_BAD_ROWS]:
        console.print(f"{source}:{row['number']}: left out: {row['reason']}", markup=False)
    if len(rows) > _SHOWN_BAD_ROWS:
        console.print(f"... and {len(rows) - _SHOWN_BAD_ROWS} more, all in {kept_in}")


def print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """Accuracy of each split beside what always giving the commonest answer scores there."""
    names = _DIMENSIONS | {"mean": "mean", "total": "all four"}
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in scores:
        table.add_column(f"{split} accuracy", justify="right")
        table.add_column("majority", justify="right", style="dim")
    for key, name in names.items():
        cells = [
            f"{s[f'{kind}_{key}']:.3f}" for s in scores.values() for kind in ("acc", "majority")
        ]
        table.add_row(name, *cells)
    losses = [cell for s in scores.values() for cell in (f"{s['loss']:.3f}", "")]
    table.add_row("loss", *losses)
    table.add_row("rows", *[c for s in scores.values() for c in (f"{s['rows']:.0f}", "")])
    console.print(table)


def print_scorecard(scorecards: Mapping[str, Mapping[str, Any]]) -> None:
    """One scorecard with all its metrics, or the accuracies of several side by side.

    Below it the baselines of the first one, and how it compares with one of them.
    """
    main, *others = scorecards.values()
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in scorecards if others else ("accuracy", *_METRICS.values()):
        table.add_column(escape(heading), justify="right")
    for key, name in _RATES.items():
        figures = main["dimensions"].get(key) or (main["overall"] if key == "accuracy" else {})
        metrics = _METRICS if figures and not others else ()
        table.add_row(
            name,
            *(_interval(_rates(card)[key]) for card in scorecards.values()),
            *(_value(figures.get(metric)) for metric in metrics),
        )
    console.print(table)
    if main["intervals"]["groups"] < _FEW_GROUPS:
        console.print(
            f"only {main['intervals']['groups']} {main['intervals']['resampled']}(s) stand behind "
            "these scores: take them, and any interval, as a rough guide",
            style="yellow",
        )
    _print_baselines(main)


def _rates(card: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of each dimension, their mean, all four, at least three."""
    dimensions = {key: card["dimensions"][key]["accuracy"] for key in _DIMENSIONS}
    return dimensions | {key: card["overall"][key] for key in _RATES if key not in dimensions}


def _print_baselines(card: Mapping[str, Any]) -> None:
    baselines, missing = card.get("baselines") or {}, card.get("missing") or {}
    if baselines:
        table = Table(box=None, pad_edge=False)
        table.add_column("baseline accuracy")
        for name in _RATES.values():
            table.add_column(name, justify="right")
        for name, rates in baselines.items():
            table.add_row(escape(name), *(_value(rates.get(key)) for key in _RATES))
        console.print()
        console.print(table)
    for name, reason in missing.items():
        console.print(f"{name} is missing: {reason}", markup=False)
    paired = card.get("paired")
    if paired:
        differences = [
            f"{_RATES[key]} {_difference(paired[key])}"
            for key in ("accuracy", "all_four")
            if paired.get(key)
        ]
        console.print(
            f"against {paired['against']} on the same rows: {', '.join(differences)} "
            f"[{paired['test']}]",
            markup=False,
        )


def _value(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None else f"{estimate['value']:.3f}"


def _interval(estimate: Mapping[str, Any] | None) -> str:
    """`0.887 (0.861-0.910)`, or the value alone."""
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return _value(estimate)
    return f"{_value(estimate)} ({estimate['low']:.3f}-{estimate['high']:.3f})"


def _difference(found: Mapping[str, Any]) -> str:
    """`+0.039 (+0.020 to +0.058, p 0.012)`."""
    evidence = []
    if found.get("low") is not None and found.get("high") is not None:
        evidence.append(f"{found['low']:+.3f} to {found['high']:+.3f}")
    if found.get("p") is not None:
        evidence.append(f"p {found['p']:.2g}")
    return f"{found['value']:+.3f}" + (f" ({', '.join(evidence)})" if evidence else "")


def print_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """One line each: what was found, by which evidence, and the values to try, as a shell takes."""
    for finding in findings:
        console.print(finding["line"], markup=False, soft_wrap=True)


def scores_of(values: Sequence[float] | None) -> str:
    """What a trial scored, as a table or bar shows it."""
    return ", ".join(f"{v:.4f}" for v in values) if values else "-"


def print_trials(study: Result) -> None:
    """One line a trial: what was tried, what came of it; then how many each rung let go on.

    Args:
        study: Figures as `study.figures` makes them.
    """
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
            scores_of(trial["values"]),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(short(trial["params"].get(address, "-")) for address in study["search"]),
        )
    console.print(table)
    for rung in study["rungs"]:
        went = rung["reached"] - rung["stopped"]
        console.print(f"epoch {rung['epoch']}: {went} of {rung['reached']} trials went on")
    if study["front"]:
        front = ", ".join(map(str, study["front"]))
        console.print(f"not beaten in all of {objectives}: trials {front}")


def short(value: object) -> str:
    """A value as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_predictions(texts: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> None:
    """One line a text: its type, the probabilities of E, N, T and J, and how it begins."""
    table = Table(box=None, pad_edge=False)
    poles = list(answers[0]["probabilities"])
    for heading in ("type", *poles, "text"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for text, answer in zip(texts, answers, strict=True):
        probabilities = [f"{p:.2f}" for p in answer["probabilities"].values()]
        table.add_row(answer["type"], *probabilities, Text(" ".join(text.split())))
    console.print(table)
