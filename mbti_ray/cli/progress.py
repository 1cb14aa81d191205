"""Progress of a command: a bar on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mbti_ray.cli.screen import build_console, print_error
from mbti_ray.cli.tables import format_values

_LOG_INTERVAL_S = 30.0


def is_watched() -> bool:
    """Whether standard error is a terminal that somebody looks at."""
    return sys.stderr.isatty() and "CI" not in os.environ


@contextmanager
def _bar(heading: str, total: int | None, note: str = "") -> Iterator[Callable[..., None]]:
    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("{task.fields[note]}", markup=False)),
    )
    with Progress(*columns, console=build_console(stderr=True)) as bar:
        yield partial(bar.update, bar.add_task(heading, total=total, note=note))


@contextmanager
def progress_bar(heading: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, or lines in a log; yields the function that advances it.

    That function takes the steps done since the last call, and a note.
    """
    if not is_watched():
        yield _log_lines(heading, total)
        return
    with _bar(heading, total) as update:
        yield lambda done, note: update(advance=done, note=note)


def _log_lines(heading: str, total: int | None) -> Callable[[int, str], None]:
    position, logged_at = 0, time.monotonic()

    def advance(done: int, note: str) -> None:
        nonlocal position, logged_at
        position += done
        if time.monotonic() - logged_at > _LOG_INTERVAL_S:
            logged_at = time.monotonic()
            of = f" of {total}" if total else ""
            print_error(f"{heading} {position}{of} {note}".rstrip())

    return advance


@contextmanager
def run_progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar for a run, if watched; yields the function that advances it.

    That function takes the steps done since the last call, the total number of steps, and a note.
    """
    if not is_watched():
        yield None
        return
    with _bar("training", None, "starting workers") as update:
        yield lambda done, total, note: update(advance=done, total=total, note=note)


@contextmanager
def trial_progress(total: int | None) -> Iterator[Callable[[Any], None]]:
    """A bar for a study; yields a function to call with the record of each finished trial."""
    with progress_bar("trials", total) as advance:
        yield lambda trial: advance(
            1, f"{trial.number} {trial.state} {format_values(trial.values)}"
        )
