"""What a command shows on standard error while it works: the first line, bars, epochs, trials.

On a terminal, bars leave nothing behind; a log has a line for each step, epoch and trial in their
place. Takes records; must not know where they come from.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.spinner import Spinner
from rich.table import Column

from mbti_ray import __version__
from mbti_ray.cli.screen import build_console, print_error
from mbti_ray.cli.tables import format_values
from mbti_ray.config import RunConfig, StudyConfig
from mbti_ray.config.schema import mode_of

_LOG_INTERVAL_S = 30.0
_EPOCHS = ("epoch", "loss", "val loss", "accuracy", "macro-F1", "best", "seconds", "left")
_WIDTHS = (7, 8, 10, 10, 10, 9, 9, 9)


def is_watched() -> bool:
    """Whether standard error is a terminal that somebody looks at."""
    return sys.stderr.isatty() and "CI" not in os.environ


def print_opening() -> None:
    """The first line of a command that takes seconds, before torch is imported."""
    try:
        torch = f"torch {version('torch')}"
    except PackageNotFoundError:
        torch = "no torch"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    gpus = len([*Path("/dev").glob("nvidia[0-9]*")])
    python = f"Python {platform.python_version()}"
    machine = f"{cores} core{'s' * (cores > 1)}, {gpus or 'no'} GPU{'s' * (gpus > 1)}"
    print_error(f"mbti-ray {__version__}, {python}, {torch}, {machine}")


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
    """A bar on standard error, or lines in a log; yields the function that advances it."""
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


@dataclass
class RunProgress:
    """Shows each epoch of a run as a line of a table, and its steps as a bar if there is one."""

    config: RunConfig
    update: Callable[..., None] = lambda **shown: None
    _has_header: bool = False

    def advance(self, done: int, total: int, note: str) -> None:
        """Steps done since the last call, the total number of steps, and a note."""
        self.update(advance=done, total=total, note=note)

    def add_epoch(self, record: Mapping[str, Any]) -> None:
        """The metrics record of an epoch that has ended."""
        if not self._has_header:
            self._has_header = True
            print_error(_row(_EPOCHS))
        print_error(format_epoch(record, self.config))
        fit = self.config.fit
        if record["finished"] and record["epoch"] < fit.epochs:
            print_error(
                f"stopped early: {fit.monitor} has not improved since epoch {record['best_epoch']}"
            )


@contextmanager
def run_progress(config: RunConfig) -> Iterator[RunProgress]:
    """The progress of one run."""
    if not is_watched():
        print_error("starting workers ...")
        yield RunProgress(config)
        return
    with live_bars() as bars:
        task = bars.add_task("training", total=None, note="starting workers")
        yield RunProgress(config, partial(bars.update, task))


def format_epoch(record: Mapping[str, Any], config: RunConfig) -> str:
    """One line of at most 80 columns; a star marks the best epoch so far."""
    epoch, epochs, val = record["epoch"], config.fit.epochs, record["val"]
    is_best = record["best_epoch"] == epoch
    left = record["seconds"] / epoch * (epochs - epoch)
    cells = (
        f"{epoch}/{epochs}",
        *(f"{value:.4f}" for value in (record["train"]["loss"], val["loss"])),
        *(f"{val[name]:.4f}" for name in ("acc_mean", "f1_mean")),
        f"{record['best']:.4f}{'*' if is_best else ' '}",
        f"{record['seconds']:.1f}",
        "-" if record["finished"] else format_duration(left),
    )
    return _row(cells)


def _row(cells: tuple[str, ...]) -> str:
    padded = zip(cells, _WIDTHS, strict=True)
    return "".join(cell.rjust(width) for cell, width in padded)


def format_duration(seconds: float) -> str:
    """`0:42`, `12:05` or `3:12:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class StudyProgress:
    """Shows each ended trial of a study as a line, and the running ones as bars if there are any.

    `done` counts trials that were evaluated, those before a --resume included.
    """

    config: StudyConfig
    bars: Progress | None = None
    update: Callable[..., None] = lambda **shown: None
    done: int = 0
    _started: float = field(default_factory=lambda: time.monotonic())
    _logged: float = field(default_factory=lambda: time.monotonic())
    _ended: int = 0
    _best: tuple[int, float] | None = None
    _running: dict[int, tuple[int, float]] = field(default_factory=dict)
    _tasks: dict[int, TaskID] = field(default_factory=dict)

    def begin(self, records: Iterable[Any]) -> None:
        """The trials that a resumed study has already."""
        for record in records:
            if record.was_evaluated and record.values:
                self.done += 1
                self._compare(record.number, record.values[0])
        self._show_study()

    def add_epoch(self, number: int, epoch: int, value: float) -> None:
        """A running trial has finished an epoch with a value of the first objective."""
        self._running[number] = (epoch, value)
        self._compare(number, value)
        objective = self.config.objective
        if self.bars is not None:
            if number not in self._tasks:
                is_known = "fit.epochs" not in self.config.search
                total = self.config.fit.epochs if is_known else None
                self._tasks[number] = self.bars.add_task(f"trial {number}", total=total, note="")
            note = f"{objective} {value:.4f}"
            self.bars.update(self._tasks[number], completed=epoch, note=note)
            self._show_study()
        elif time.monotonic() - self._logged > _LOG_INTERVAL_S:
            self._logged = time.monotonic()
            running = sorted(self._running.items())
            shown = [f"trial {n} epoch {e} {objective} {v:.4f}" for n, (e, v) in running]
            print_error(f"running: {', '.join(shown)}; {self._outlook()}")

    def end_trial(self, trial: Any) -> None:
        """A trial has ended, in whatever way; takes its `TrialRecord`."""
        self._running.pop(trial.number, None)
        if self.bars is not None and trial.number in self._tasks:
            self.bars.remove_task(self._tasks.pop(trial.number))
        if trial.was_evaluated and trial.values:
            self.done, self._ended = self.done + 1, self._ended + 1
            self._compare(trial.number, trial.values[0])
            result = f"{format_values(trial.values)} in {trial.epochs} epochs"
        else:
            result = trial.reason or "no value"
        print_error(f"trial {trial.number} {trial.state} {result}; {self._outlook()}")
        self._show_study()

    def _compare(self, number: int, value: float) -> None:
        sign = 1 if mode_of(self.config.objective) == "min" else -1
        # Of equally good ones the first, as the study has it.
        if self._best is None or (sign * value, number) < (sign * self._best[1], self._best[0]):
            self._best = (number, value)

    def _outlook(self) -> str:
        """The best so far, and for how long it goes on."""
        parts = []
        if self._best is not None:
            parts.append(
                f"best {self.config.objective} {self._best[1]:.4f} (trial {self._best[0]})"
            )
        study, elapsed = self.config.study, time.monotonic() - self._started
        left = [] if study.hours is None else [max(0.0, 3600 * study.hours - elapsed)]
        if study.trials and self._ended:
            left.append(elapsed / self._ended * max(0, study.trials - self.done))
        if left:
            parts.append(f"{format_duration(min(left))} left")
        return ", ".join(parts) or "no trial has ended yet"

    def _show_study(self) -> None:
        self.update(completed=self.done, note=self._outlook())


@contextmanager
def study_progress(config: StudyConfig) -> Iterator[StudyProgress]:
    """The progress of a study."""
    if not is_watched():
        yield StudyProgress(config)
        return
    with live_bars() as bars:
        task = bars.add_task("trials", total=config.study.trials, note="")
        yield StudyProgress(config, bars, partial(bars.update, task))
