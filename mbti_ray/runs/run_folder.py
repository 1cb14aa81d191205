"""Run folders: where they are, the names of their files, and what is in them.

    <storage>/<name>/  config.yaml  metrics.jsonl  scores.json  report.html  checkpoints/
                       bundle/  bad_rows.jsonl, if rows of the data were skipped
    a run with data.folds also has
                       fold-1/, fold-2/, ... with the same files, and predictions.safetensors
    a study also has   optuna.db  trials.parquet
                       best/ (config.yaml, scores.json, report.html, bundle/)
    <storage>/cache/   tokenized datasets, by key

If storage is a URL, each process that writes to a run has a working copy of its files on its own
machine and uploads what has changed; tokenized datasets stay on the machine that made them.
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
from mbti_ray.storage.atomic import storage_errors, write_text
from mbti_ray.storage.remote import Location, RemotePath, parse_location
from mbti_ray.storage.working_copy import locked_working_copy, rewrite_paths, working_copy_path

Existing = Literal["refuse", "resume", "fresh"]
# Their presence means that the run is complete, so they are uploaded last, in this order.
_UPLOADED_LAST = ("bundle.json", "scores.json")


@dataclass(frozen=True)
class _FileName:
    """A file or folder of a run; as an attribute of `RunFolder` it is a path."""

    name: str

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or study.

    `path` is where this process reads and writes the files; if they are stored in a bucket, at
    `remote`, it is a working copy, which exists only inside `checked_out`.
    """

    path: Path
    remote: RemotePath | None = None
    _pushed: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def at(cls, location: Location) -> "RunFolder":
        """The run folder at a path or in a bucket."""
        if isinstance(location, Path):
            return cls(location)
        return cls(working_copy_path(location), location)

    @property
    def location(self) -> Location:
        """Where it is stored, which is what messages show."""
        return self.remote or self.path

    config = _FileName("config.yaml")
    metrics = _FileName("metrics.jsonl")
    scores = _FileName("scores.json")
    bad_rows = _FileName("bad_rows.jsonl")
    report = _FileName("report.html")
    checkpoints = _FileName("checkpoints")
    bundle = _FileName("bundle")
    # Why the run failed, in one sentence; restarted workers that find it do not try again.
    failure = _FileName("failure.txt")
    # A request to save a checkpoint and stop; anybody may create it.
    stop = _FileName("stop")
    # What happened during the run that the user should know, one line each.
    notes = _FileName("notes.txt")

    # Of a fold of cross-validation: what it predicts for its rows.
    predictions = _FileName("predictions.safetensors")

    @property
    def best(self) -> "RunFolder":
        """The folder of the best run of a study, with the same files."""
        return self._inside("best")

    def fold(self, number: int) -> "RunFolder":
        """The folder of a fold of a cross-validation, counted from 1, with the same files."""
        return self._inside(f"fold-{number}")

    def _inside(self, name: str) -> "RunFolder":
        remote = self.remote / name if self.remote else None
        return RunFolder(self.path / name, remote, self._pushed)

    def read_notes(self) -> list[str]:
        return self.notes.read_text("utf-8").splitlines() if self.notes.exists() else []

    @contextmanager
    def checked_out(self) -> Iterator["RunFolder"]:
        """Its files on this machine for the length of the block; nothing is left behind.

        Errors that are raised in it name the stored run, not the working copy.
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
        """Download the files, but no folders, into the working copy."""
        if self.remote is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.remote.files():
            target = self.path / file.name
            file.download(target)
            self._pushed[target] = _state(target)

    def push(self, *, replace: Sequence[str] = ()) -> None:
        """Upload what has changed in the working copy; delete what else is in `replace`."""
        if self.remote is None:
            return
        files = [
            p for p in self.path.rglob("*") if p.is_file() and self._pushed.get(p) != _state(p)
        ]
        for path in sorted(files, key=lambda p: (p.name in _UPLOADED_LAST, p.name)):
            state = _state(path)
            (self.remote / path.relative_to(self.path).as_posix()).upload(path)
            self._pushed[path] = state
        for name in replace:
            for file in (self.remote / name).rglob("*"):
                if not (self.path / file.path.removeprefix(f"{self.remote.path}/")).exists():
                    file.delete()

    def begin(self, config: RunConfig, existing: Existing) -> None:
        """Create the folder and write config.yaml; nothing is changed before this call."""
        with storage_errors(self.path):
            if existing == "fresh":
                if self.remote:
                    self.remote.delete()
                if self.path.exists():
                    shutil.rmtree(self.path)
                self._pushed.clear()
            self.path.mkdir(parents=True, exist_ok=True)
            for old in (self.failure, self.stop, self.notes):
                old.unlink(missing_ok=True)
                if self.remote:
                    (self.remote / old.name).delete()
        write_text(self.config, dump_config(config))
        self.push()

    def request_stop(self) -> None:
        self.stop.touch()
        self.push()

    def is_stop_requested(self) -> bool:
        """Whether somebody has created the file `stop`, wherever the run is stored."""
        return (self.remote / self.stop.name).exists() if self.remote else self.stop.exists()

    def rewrite_paths(self, text: str) -> str:
        """A message with the location of the run in place of that of the working copy."""
        return rewrite_paths(text, self.remote) if self.remote else text

    def write_bad_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the skipped rows of the data, one JSON line each; no file if there are none."""
        if rows:
            write_text(self.bad_rows, "".join(json.dumps(row) + "\n" for row in rows))
            self.push()

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        write_text(self.scores, json.dumps(scores, indent=2) + "\n")


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


@contextmanager
def open_run(location: str | Location) -> Iterator[RunFolder]:
    """The run or study at a path or URL, checked out."""
    parsed = parse_location(location) if isinstance(location, str) else location
    with RunFolder.at(parsed).checked_out() as folder:
        yield folder
