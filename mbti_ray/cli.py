"""What all commands share: arguments, exit codes, one-line errors, tables, the JSON line.

Imports nothing heavy: `--help` and mistakes are answered before torch or Ray is loaded.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from mbti_ray.errors import MbtiRayError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Result = Mapping[str, Any]
Command = Callable[[argparse.Namespace], Result]

_SHOWN_BAD_ROWS = 10

# Width is fixed where nobody looks, so that logs of two runs can be compared line by line.
console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def build_parser(verb: str, description: str, *, items: str) -> argparse.ArgumentParser:
    """A parser with the positional `items`, described by `items`, and `--json`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m mbti_ray.{verb}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("items", nargs="*", metavar="ITEM", help=items)
    parser.add_argument("--json", action="store_true", help="print one JSON object as last line")
    return parser


def add_existing(parser: argparse.ArgumentParser) -> None:
    """The options that say what to do with a run folder that exists."""
    group = parser.add_mutually_exclusive_group()
    for name, text in (
        ("resume", "go on with the run called name=..., or with the newest of this kind"),
        ("fresh", "delete the run called name=... first"),
    ):
        group.add_argument(
            f"--{name}", dest="existing", action="store_const", const=name, help=text
        )
    parser.set_defaults(existing="refuse")


def run_command(
    parser: argparse.ArgumentParser, command: Command, argv: Sequence[str] | None = None
) -> int:
    """Parse, run, print; the exit code is 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    options = parser.parse_intermixed_args(argv)
    try:
        result = command(options)
    except MbtiRayError as error:
        for line in str(error).splitlines():
            print(line, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if options.json:
        sys.stdout.flush()
        print(json.dumps(result), flush=True)
    return 0


def split_base(items: Sequence[str]) -> tuple[str | None, list[str]]:
    """The preset or file in front, if there is one, and the `key=value` arguments."""
    if items and "=" not in items[0]:
        return items[0], list(items[1:])
    return None, list(items)


def default_name(base: str | None) -> str:
    """What runs of a preset or file are called when they have no name of their own."""
    return Path(base or "quick").stem


def is_watched() -> bool:
    """Whether a person sees progress bars."""
    return sys.stderr.isatty() and "CI" not in os.environ


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """A list of headings with a sentence each."""
    table = Table.grid(padding=(0, 2))
    for heading, text in pairs:
        table.add_row(f"[bold]{heading}[/bold]", text)
    console.print(table)


def print_bad_rows(source: str, rows: Sequence[Mapping[str, Any]], kept_in: Path) -> None:
    """The rows that were left out of the data, the first of them by name."""
    for row in rows[:_SHOWN_BAD_ROWS]:
        console.print(f"{source}:{row['number']}: left out: {row['reason']}", markup=False)
    if len(rows) > _SHOWN_BAD_ROWS:
        console.print(f"... and {len(rows) - _SHOWN_BAD_ROWS} more, all in {kept_in}")


def print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """Accuracy of each split beside what always giving the commonest answer scores there."""
    names = {
        "ei": "E/I",
        "sn": "S/N",
        "tf": "T/F",
        "jp": "J/P",
        "mean": "mean",
        "total": "all four",
    }
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


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def progress_bar(heading: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error that is told (steps done since the last time, a note).

    Where nobody watches it shows nothing.
    """
    with Progress(*_columns(), console=Console(stderr=True), disable=not is_watched()) as bar:
        task = bar.add_task(heading, total=total, note="")
        yield lambda done, note: bar.update(task, advance=done, note=note)


@contextmanager
def run_progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar that is told (steps done since the last time, steps in all, a note), if watched."""
    if not is_watched():
        yield None
        return
    with Progress(*_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, note="starting workers")
        yield lambda done, total, note: bar.update(task, advance=done, total=total, note=note)


@contextmanager
def trial_progress(total: int, objective: str) -> Iterator[Callable[["FrozenTrial"], None]]:
    """A bar that is told each trial that has ended."""
    with progress_bar("trials", total) as advance:
        yield lambda trial: advance(1, _trial_note(trial, objective))


def _trial_note(trial: "FrozenTrial", objective: str) -> str:
    best = _best_of(trial, objective)
    return f"{trial.number} {trial.state.name} {objective} {best}"


def _best_of(trial: "FrozenTrial", objective: str) -> str:
    values = trial.intermediate_values.values()
    if not values:
        return "-"
    return f"{min(values) if objective == 'loss' else max(values):.4f}"


def print_trials(trials: Sequence["FrozenTrial"], objective: str) -> None:
    """One line a trial: what was tried, what came of it."""
    table = Table(box=None, pad_edge=False)
    addresses = list(dict.fromkeys(a for trial in trials for a in trial.params))
    for heading in ("trial", "state", objective, "epochs", "seconds", *addresses):
        table.add_column(
            heading, justify="left" if heading == "state" else "right", overflow="fold"
        )
    for trial in trials:
        attributes = trial.user_attrs
        values = [trial.params.get(a) for a in addresses]
        table.add_row(
            str(trial.number),
            trial.state.name,
            _best_of(trial, objective),
            str(attributes.get("epochs", 0)),
            f"{attributes.get('seconds', 0.0):.1f}",
            *(short(value) for value in values),
        )
    console.print(table)


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
