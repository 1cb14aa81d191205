"""Run folders: where they are, what their files are called, and who may write into one.

    <storage>/<name>/  config.yaml  metrics.jsonl  scores.json  report.html  checkpoints/
                       bundle/  bad_rows.jsonl, where rows of the data were left out
    a study also has   optuna.db  trials.parquet
                       best/ (config.yaml, scores.json, report.html, bundle/)
    <storage>/cache/   tokenised datasets, by key

Where storage is a URL, each process that writes into a run has a working copy of its files on its
own machine, and puts up what has changed; tokenised datasets stay on the machine that makes them.

Knows names and places; reads and writes no model.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mbti_ray.config import RunConfig, dump_config
from mbti_ray.errors import MbtiRayError
from mbti_ray.storage.remote import Location, RemotePath, parse_location
from mbti_ray.storage.working_copy import locked_working_copy, rewrite_paths, working_copy_path

Existing = Literal["refuse", "resume", "fresh"]
# What says that the files beside it are all there; put up last, in this order.
_MARKS = ("bundle.json", "scores.json")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or study.

    Attributes:
        path: Where this process reads and writes its files.
        remote: Where they are kept, if that is not there; `path` is a working copy then, which is
            only there inside `checked_out`.
    """

    path: Path
    remote: RemotePath | None = None
    _kept: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def at(cls, place: Location) -> "RunFolder":
        """The folder of a run wherever it is."""
        if isinstance(place, Path):
            return cls(place)
        return cls(working_copy_path(place), place)

    @property
    def location(self) -> Location:
        """Where it is kept, as people should read it."""
        return self.remote or self.path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def report(self) -> Path:
        """The page with the scorecard."""
        return self.path / "report.html"

    @property
    def best(self) -> "RunFolder":
        """Of a study: the folder of the best run, with the same files."""
        remote = self.remote / "best" if self.remote else None
        return RunFolder(self.path / "best", remote, self._kept)

    @property
    def failure(self) -> Path:
        """The sentence with which a run gave up; a restarted worker finds it and does not try."""
        return self.path / "failure.txt"

    @property
    def stop(self) -> Path:
        """A file that asks the run to save a checkpoint and stop; anybody may make it."""
        return self.path / "stop"

    @property
    def notes(self) -> Path:
        """What happened on the way that the user should know."""
        return self.path / "notes.txt"

    @property
    def bad_rows(self) -> Path:
        return self.path / "bad_rows.jsonl"

    def read_notes(self) -> list[str]:
        return self.notes.read_text("utf-8").splitlines() if self.notes.exists() else []

    @contextmanager
    def checked_out(self) -> Iterator["RunFolder"]:
        """Its files on this machine, as long as they are worked with; nothing is left behind.

        Errors that leave it speak of where the run is kept.
        """
        if self.remote is None:
            yield self
            return
        with locked_working_copy(self.path, self.remote):
            try:
                self.pull()
                yield self
            except MbtiRayError as error:
                error.args = (self.rewrite_paths(str(error)),)
                raise

    def pull(self) -> None:
        """Take what is kept elsewhere into the working copy: its files, none of its folders."""
        if self.remote is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.remote.files():
            target = self.path / file.name
            file.download(target)
            self._kept[target] = _state(target)

    def push(self, *, replace: Sequence[str] = ()) -> None:
        """Put up what has changed in the working copy.

        Args:
            replace: Folders that are replaced whole.
        """
        if self.remote is None:
            return
        for name in replace:
            (self.remote / name).delete()
        files = [p for p in self.path.rglob("*") if p.is_file() and self._kept.get(p) != _state(p)]
        for path in sorted(files, key=_mark):
            state = _state(path)
            (self.remote / path.relative_to(self.path).as_posix()).upload(path)
            self._kept[path] = state

    def begin(self, config: RunConfig, existing: Existing) -> None:
        """Make the folder ready to be written to: nothing is touched before this."""
        if existing == "fresh":
            if self.remote:
                self.remote.delete()
            if self.path.exists():
                shutil.rmtree(self.path)
            self._kept.clear()
        self.path.mkdir(parents=True, exist_ok=True)
        for old in (self.failure, self.stop, self.notes):
            old.unlink(missing_ok=True)
            if self.remote:
                (self.remote / old.name).delete()
        self.config.write_text(dump_config(config), "utf-8")
        self.push()

    def request_stop(self) -> None:
        self.stop.touch()
        self.push()

    def is_stop_requested(self) -> bool:
        """Whether somebody has made the file `stop`, wherever the run is kept."""
        return (self.remote / self.stop.name).exists() if self.remote else self.stop.exists()

    def rewrite_paths(self, text: str) -> str:
        """A message as people should read it, though it speaks of the working copy."""
        return rewrite_paths(text, self.remote) if self.remote else text

    def write_bad_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was left out of the data, a JSON line each; no file where that is nothing."""
        if rows:
            self.bad_rows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            self.push()

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        self.scores.write_text(json.dumps(scores, indent=2) + "\n", "utf-8")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _mark(path: Path) -> int:
    return _MARKS.index(path.name) if path.name in _MARKS else -1


@contextmanager
def open_run(place: str | Location) -> Iterator[RunFolder]:
    """The run or study at a path or URL, its files at hand."""
    with RunFolder.at(
        parse_location(place) if isinstance(place, str) else place
    ).checked_out() as folder:
        yield folder
