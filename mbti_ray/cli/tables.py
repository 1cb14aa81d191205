"""Tables and lines on the terminal: scores, trials, predictions, findings, warnings.

Takes plain records and imports nothing heavy; must not know where the records come from.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mbti_ray.cli.screen import build_console, wrap
from mbti_ray.scores.names import (
    COMPARED_NAMES,
    DIMENSION_NAMES,
    FEW_PERSONS,
    METRIC_NAMES,
    RATE_NAMES,
    rates_of,
)
from mbti_ray.scores.verdict import describe_paired, format_difference, outcome_of, verdict

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
_OUTCOME_COLORS = {"better": "green", "worse": "red", "unclear": "yellow", "not compared": ""}
# The width is fixed where the output is a file, so that logs of two runs can be diffed.
console = build_console(width=None if sys.stdout.isatty() else 100)


def print_line(text: str, *, style: str | None = None, indent: int = 2) -> None:
    """A sentence, on a terminal wrapped between words with a hanging indent."""
    if console.is_terminal:
        text = wrap(text, console.width, indent=indent)
    console.print(text, style=style, soft_wrap=True)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """A list of headings, each with a sentence."""
    width = max(7, *(len(heading) for heading, _ in pairs)) + 2
    for heading, text in pairs:
        if console.is_terminal:
            text = wrap(text, max(20, console.width - width), indent=0)
        lines = text.replace("\n", "\n" + " " * width)
        console.print(Text.assemble((heading.ljust(width), "bold"), lines), soft_wrap=True)


def print_warning(line: str) -> None:
    """A problem that does not stop the command."""
    print_line(line, style="yellow")


def print_bad_rows(
    source: str, rows: Iterable[Mapping[str, Any]], count: int, *, listed_in: object
) -> None:
    """The first of the rows that were left out of the data, with the reasons."""
    for row in islice(rows, _SHOWN_BAD_ROWS):
        print_line(f"{source}:{row['number']}: left out: {row['reason']}")
    more = f"... and {count - _SHOWN_BAD_ROWS} more, " if count > _SHOWN_BAD_ROWS else ""
    if count:
        print_line(f"{more}all in {listed_in}")


def print_table(heading: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of rows that each start with a name."""
    print_heading(heading)
    table = _table("", *header, wraps=True)
    table.show_header = any(header)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_heading(text: str) -> None:
    """The heading of a table."""
    console.print(Text(f"\n{text}", style="bold"), soft_wrap=True)


def _table(first: str, *headings: str, gap: int = 2, wraps: bool = False) -> Table:
    """A table of numbers, each right-aligned under its heading."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(first, no_wrap=not wraps)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=not wraps)
    return table


def _print_widest(*tables: Table) -> None:
    """The first of several that fits on the screen; if none does, the last."""
    unlimited = console.options.update(max_width=10_000)
    widths = (Measurement.get(console, unlimited, table).maximum for table in tables)
    fitting = (t for t, width in zip(tables, widths, strict=True) if width <= console.width)
    console.print(next(fitting, tables[-1]))


def print_scores(scores: Mapping[str, float]) -> None:
    """Accuracy and macro-F1 of a split, and the accuracy of always predicting the majority."""
    table = _table("", "accuracy", "majority", "macro-F1")
    for key, name in (DIMENSION_NAMES | {"mean": "mean", "total": "all four"}).items():
        cells = [scores.get(f"{kind}_{key}") for kind in ("acc", "majority", "f1")]
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    table.add_row("loss", f"{scores['loss']:.3f}")
    if "rmse_shares" in scores:
        table.add_row("RMSE from shares", f"{scores['rmse_shares']:.3f}")
    table.add_row("rows", f"{scores['rows']:.0f}")
    console.print(table)


def print_verdict(card: "Scorecard", data_info: Mapping[str, Any] | None) -> str:
    """The verdict on the test split, which it also returns."""
    sentence, outcome = verdict(card, data_info), outcome_of(card)
    console.print()
    print_line(sentence, style=f"bold {_OUTCOME_COLORS[outcome]}".strip())
    return sentence


def print_outcome(
    scores: Mapping[str, Any], data_info: Mapping[str, Any], folds: int | None
) -> str:
    """The verdict on a run and the tables of its scores.json; returns the verdict."""
    sentence = print_verdict(scores["scorecard"], data_info)
    if "choice" in scores:
        print_line(scores["choice"]["line"])
    print_heading("validation (the mean of the folds)" if folds else "validation (chose the best)")
    print_scores(scores["val"])
    print_heading(f"all {folds} folds, each row once" if folds else "test (scored once)")
    print_scorecard({"test": scores["scorecard"]})
    return sentence


def print_scorecard(scorecards: Mapping[str, "Scorecard"]) -> None:
    """One scorecard with all its metrics, or the accuracies of several side by side.

    Below it the baselines of the first one, and how the model compares with the best of them.
    """
    main, *others = scorecards.values()
    if others:
        console.print(_side_by_side(scorecards))
    else:
        # Intervals in their columns as far as there is room, and at last fewer metrics.
        layouts = ((2, 2, 7), (1, 2, 7), (1, 1, 7), (0, 2, 7), (0, 1, 4), (0, 1, 2))
        _print_widest(*(_all_metrics(main, n, gap, shown=shown) for n, gap, shown in layouts))
    persons, kind = main["intervals"]["groups"], main["intervals"]["resampled"]
    if persons < FEW_PERSONS:
        counted = f"{persons} {kind} was" if persons == 1 else f"{persons} {kind}s were"
        print_line(
            f"only {counted} scored: take these scores, and any interval, as a rough guide",
            style="yellow",
        )
    _print_baselines(main)


def _side_by_side(scorecards: Mapping[str, "Scorecard"]) -> Table:
    table = _table("", *scorecards)
    for key, name in RATE_NAMES.items():
        table.add_row(name, *(_interval(rates_of(card)[key]) for card in scorecards.values()))
    f1 = [_interval(card["overall"]["macro_f1"]) for card in scorecards.values()]
    table.add_row("mean macro-F1", *f1)
    return table


def _all_metrics(card: "Scorecard", intervals: int, gap: int, *, shown: int) -> Table:
    """So many metrics in columns, the first of them with their intervals."""
    metrics = ("accuracy", "macro_f1", *_OTHER_METRICS)[:shown]
    table = _table("", *(METRIC_NAMES[metric].replace(" ", "\n") for metric in metrics), gap=gap)
    for key, name in RATE_NAMES.items():
        row = card["dimensions"].get(key) or (card["overall"] if key == "accuracy" else {})
        cells = [rates_of(card)[key], *(row.get(metric) for metric in metrics[1:] if row)]
        shows = (_interval if n < intervals else _value for n in range(len(cells)))
        table.add_row(name, *(show(cell) for show, cell in zip(shows, cells, strict=True)))
    return table


def _print_baselines(card: "Scorecard") -> None:
    baselines, missing = card.get("baselines") or {}, card.get("missing") or {}
    if baselines:
        print_heading("compared with baselines, on the same rows")
        layouts = ((2, "_"), (1, "_"), (1, "\n"))
        _print_widest(*(_beside_baselines(card, gap, between) for gap, between in layouts))
    for name, reason in missing.items():
        print_line(f"{name} is missing: {reason}")
    if card.get("paired"):
        print_line(describe_paired(card))


def _beside_baselines(card: "Scorecard", gap: int, between_words: str) -> Table:
    baselines = card["baselines"]
    headings = (name.replace("_", between_words) for name in ("this model", *baselines))
    table = _table("accuracy", *headings, gap=gap)
    for key, name in COMPARED_NAMES.items():
        columns = [rates_of(card), *baselines.values()]
        table.add_row(name, *(_value(rates.get(key)) for rates in columns))
    return table


def print_comparison(found: "Comparison") -> None:
    """How the second of two bundles differs from the first, and whose letters flipped."""
    table = _table("", "A", "B", "B - A")
    for name, difference in found["differences"].items():
        cells = [f"{difference[which]:.3f}" for which in ("first", "second")]
        label = METRIC_NAMES.get(name) or f"{RATE_NAMES[name]} right"
        table.add_row(label, *cells, format_difference(difference))
    console.print(table)
    flips = (
        f"{DIMENSION_NAMES[key]} {n['corrected']} corrected, {n['spoiled']} spoiled"
        for key, n in found["flips"].items()
    )
    print_line(f"letters that flipped: {'; '.join(flips)}")


def _value(interval: Mapping[str, Any] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.3f}"


def _interval(interval: Mapping[str, Any] | None) -> str:
    """`0.887 (0.861-0.910)`, or the value alone."""
    if interval is None or interval["low"] is None or interval["high"] is None:
        return _value(interval)
    return f"{_value(interval)} ({interval['low']:.3f}-{interval['high']:.3f})"


def print_findings(findings: Sequence["FindingRecord"]) -> None:
    """The problem and the evidence of each, and on a line of its own what to try."""
    for finding in findings:
        problem, _, tries = finding["line"].partition("; try ")
        print_line(problem)
        if tries:
            console.print(f"  try {tries}", soft_wrap=True)


def print_commands(commands: Mapping[str, str]) -> None:
    """Names and commands, each a line of its own that can be copied."""
    if commands:
        console.print()
    for name, command in commands.items():
        console.print(Text.assemble((name.ljust(9), "bold"), command), soft_wrap=True)


def format_values(values: Sequence[float] | None) -> str:
    """A trial's values of the objectives."""
    return ", ".join(f"{v:.4f}" for v in values) if values else "-"


def print_trials(study: "StudySummary") -> None:
    """One line a trial: its parameters and its result; then how many passed each rung."""
    _print_widest(*(_trials_table(study, n) for n in (_headings(study["search"]), {})))
    for rung in study["rungs"]:
        promoted = rung["reached"] - rung["stopped"]
        print_line(f"epoch {rung['epoch']}: {promoted} of {rung['reached']} trials continued")
    if study["front"]:
        front = ", ".join(map(str, study["front"]))
        objectives = ", ".join(o["name"] for o in study["objectives"])
        print_line(f"Pareto front of {objectives}: trials {front}")


def _trials_table(study: "StudySummary", columns: Mapping[str, str]) -> Table:
    """The parameters in columns, or without any as words that wrap in the last one."""
    table = Table(box=None, pad_edge=False)
    objectives = ", ".join(o["name"] for o in study["objectives"])
    for heading in ("trial", "state", objectives, "epochs", "seconds", *columns.values()):
        is_text = heading == "state"
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    if not columns:
        table.add_column("parameters")
    names = _headings(study["search"])
    for trial in study["trials"]:
        params = {a: format_short(trial["params"].get(a, "-")) for a in study["search"]}
        words = " ".join(f"{names[address]}={value}" for address, value in params.items())
        table.add_row(
            str(trial["number"]),
            "imported" if trial["imported"] else trial["state"],
            format_values(trial["values"]),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *(params.values() if columns else [words]),
        )
    return table


def _headings(addresses: Iterable[str]) -> dict[str, str]:
    """The last part of each address, or as many of them as make it unique."""
    names = {}
    for address in addresses:
        parts = address.split(".")
        suffixes = (".".join(parts[n:]) for n in range(len(parts) - 1, -1, -1))
        ends = (s for s in suffixes if sum(f".{a}".endswith(f".{s}") for a in addresses) == 1)
        names[address] = next(ends, address)
    return names


def format_short(value: object) -> str:
    """A config value as a table shows it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_predictions(texts: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> None:
    """One line a text: its type, the probabilities of E, N, T and J, and how the text starts."""
    table = Table(box=None, pad_edge=False)
    poles = list(predictions[0]["probabilities"])
    for heading in ("type", *poles, "text"):
        table.add_column(heading, no_wrap=True)
    for text, prediction in zip(texts, predictions, strict=True):
        probabilities = [f"{p:.2f}" for p in prediction["probabilities"].values()]
        start = Text(" ".join(text.split()))
        # Cut here: a table takes from all of its columns what one of them is too wide.
        start.truncate(max(10, console.width - 30), overflow="ellipsis")
        table.add_row(prediction["type"], *probabilities, start)
    console.print(table)
