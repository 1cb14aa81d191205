"""What a command shows on standard error while it works: its first line, steps, bars, epochs.

On a terminal, bars leave nothing behind; a log has a line for each step, epoch and trial in their
place. Must not know where the numbers come from.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.table import Column

from mbti_ray import __version__
from mbti_ray.cli.screen import build_console, print_error

_LOG_INTERVAL_S = 30.0


def is_watched() -> bool:
    """Whether standard error is a terminal that somebody looks at."""
    return sys.stderr.isatty() and "CI" not in os.environ


def print_opening() -> None:
    """The first line of a command that takes seconds, before torch is imported."""
    try:
        torch = f"torch {version('torch')}"
    except PackageNotFoundError:
        torch = "no torch"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    python = f"Python {platform.python_version()}"
    print_error(f"mbti-ray {__version__}, {python}, {torch}, {cores} cores")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Show what is going on during the block."""
    if not is_watched():
        print_error(f"{name} ...")
        yield
        return
    with Live(Spinner("dots", name), console=build_console(stderr=True), **_live_options()):
        yield


def _live_options() -> dict[str, Any]:
    # What is printed meanwhile appears above it; a pipe has to get it as it is.
    return {"transient": True, "redirect_stdout": sys.stdout.isatty()}


@contextmanager
def live_bars() -> Iterator[Progress]:
    """Bars with a heading and a note, which wraps at words and leave nothing behind."""
    columns = (
        TextColumn("{task.description}", markup=False),
        *(BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn()),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1)),
    )
    console = build_console(stderr=True)
    with Progress(*columns, console=console, expand=True, **_live_options()) as bars:
        yield bars


@contextmanager
def progress_bar(heading: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, or lines in a log; yields the function that advances it.

    That function takes the steps done since the last call, and a note.
    """
    if not is_watched():
        yield _log_lines(heading, total)
        return
    with live_bars() as bars:
        update = partial(bars.update, bars.add_task(heading, total=total, note=""))
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
