"""How far a command is: a bar where a person watches, a line now and then where a log is kept."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from mbti_ray.cli.tables import scores_of

# Between two lines in a log.
_LINES_S = 30.0


def is_watched() -> bool:
    """Whether a person sees progress bars."""
    return sys.stderr.isatty() and "CI" not in os.environ


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

    Where nobody watches it is a line now and then, for those who read logs.
    """
    if not is_watched():
        yield _lines(heading, total)
        return
    with Progress(*_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task(heading, total=total, note="")
        yield lambda done, note: bar.update(task, advance=done, note=note)


def _lines(heading: str, total: int | None) -> Callable[[int, str], None]:
    at, said = 0, time.monotonic()

    def tell(done: int, note: str) -> None:
        nonlocal at, said
        at += done
        if time.monotonic() - said > _LINES_S:
            said = time.monotonic()
            of = f" of {total}" if total else ""
            print(f"{heading} {at}{of} {note}".rstrip(), file=sys.stderr, flush=True)

    return tell


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
def trial_progress(total: int | None) -> Iterator[Callable[[Any], None]]:
    """A bar that is told each trial that has ended, as a `study.trials.TrialRecord`."""
    with progress_bar("trials", total) as advance:
        yield lambda trial: advance(1, f"{trial.number} {trial.state} {scores_of(trial.values)}")
