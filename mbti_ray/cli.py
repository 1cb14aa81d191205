"""What all commands share: arguments, exit codes, one-line errors, tables, the JSON line.

Imports nothing heavy: `--help` and mistakes are answered before torch or Ray is loaded.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mbti_ray.errors import MbtiRayError

Result = Mapping[str, Any]
Command = Callable[[argparse.Namespace], Result]

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
