"""Run folders: where they are, what their files are called, and who may write into one.

    <storage>/<name>/  config.yaml  metrics.jsonl  scores.json  report.html  checkpoints/
                       bundle/  bad_rows.jsonl, where rows of the data were left out
    a study also has   optuna.db  trials.parquet
                       best/ (config.yaml, scores.json, report.html, bundle/)
    <storage>/cache/   tokenised datasets, by key

Knows names and paths; reads and writes no model.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mbti_ray.config import RunConfig, dump_config
from mbti_ray.errors import ConfigError, RunError, nearest

Existing = Literal["refuse", "resume", "fresh"]
_CACHE = "cache"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or study."""

    path: Path

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
        return RunFolder(self.path / "best")

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

    def read_notes(self) -> list[str]:
        return self.notes.read_text("utf-8").splitlines() if self.notes.exists() else []

    def begin(self, config: RunConfig, existing: Existing) -> None:
        """Make the folder ready to be written to: nothing is touched before this."""
        if existing == "fresh" and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        for old in (self.failure, self.stop, self.notes):
            old.unlink(missing_ok=True)
        self.config.write_text(dump_config(config), "utf-8")

    def write_bad_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was left out of the data, a JSON line each; no file where that is nothing."""
        if rows:
            self.bad_rows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    @property
    def bad_rows(self) -> Path:
        return self.path / "bad_rows.jsonl"

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        self.scores.write_text(json.dumps(scores, indent=2) + "\n", "utf-8")


def storage_folder(storage: str) -> Path:
    """The absolute folder that `storage` names.

    Raises:
        ConfigError: It is a URL, which this version cannot write to yet, or a file.
    """
    if "://" in storage:
        raise ConfigError(f"storage={storage}: URLs are not supported yet; allowed: a folder")
    folder = Path(storage).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"storage={storage}: is a file; allowed: a folder")
    return folder


def cache_folder(storage: str) -> Path:
    """Where tokenised datasets are kept."""
    return storage_folder(storage) / _CACHE


def choose_run(config: RunConfig, *, default_name: str, existing: Existing) -> RunFolder:
    """The folder of a new run, or of an old one to go on with; nothing is written yet.

    Without `name`, a new run is called after `default_name` and the time; with `existing=resume`
    it is then the newest run of that name that there is.

    Raises:
        RunError: The name exists and neither --resume nor --fresh was given; or there is nothing
            to resume.
    """
    storage = storage_folder(config.storage)
    name = config.name
    if name is None and existing == "resume":
        candidates = sorted(storage.glob(f"{default_name}-*/config.yaml"), key=_age)
        if not candidates:
            raise RunError(f"{storage}: no run called {default_name}-... to resume")
        return RunFolder(candidates[-1].parent)
    if name is None:
        name = f"{default_name}-{datetime.now():%Y%m%d-%H%M%S}"
    if name == _CACHE:
        raise ConfigError(f"name={name}: is the folder of tokenised data; choose another name")
    folder = RunFolder(storage / name)
    exists = folder.path.exists()
    if existing == "resume" and not folder.config.exists():
        near = nearest(name, [p.parent.name for p in storage.glob("*/config.yaml")])
        raise RunError(f"{folder.path}: no run to resume{near}")
    if exists and existing == "refuse":
        raise RunError(
            f"{folder.path}: exists already; --resume goes on with it, --fresh deletes it first, "
            "name=... takes another"
        )
    if exists and existing == "fresh" and not folder.config.exists():
        raise RunError(f"{folder.path}: holds no config.yaml, so it is no run; not deleted")
    return folder


def newest_bundle(storage: Path) -> Path:
    """The newest best bundle under a storage folder: of a study, or else of a run.

    Raises:
        RunError: There is none.
    """
    for pattern in ("*/best/bundle/bundle.json", "*/bundle/bundle.json"):
        found = sorted(storage.glob(pattern), key=_age)
        if found:
            return found[-1].parent
    raise RunError(f"{storage}: holds no bundle; make one with `python -m mbti_ray.tune`")


def chosen_bundle(place: str | None, storage: str) -> Path:
    """The bundle that a command was given, or the newest under the storage folder.

    Raises:
        RunError: There is none.
    """
    return find_bundle(place) if place else newest_bundle(storage_folder(storage))


def find_bundle(place: str | Path) -> Path:
    """The bundle at a path: the folder itself, or that of the run or study folder given.

    Raises:
        RunError: There is no bundle there.
    """
    path = Path(place).expanduser()
    for folder in (path, path / "bundle", path / "best" / "bundle"):
        if (folder / "bundle.json").is_file():
            return folder
    if not path.exists():
        near = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RunError(f"{path}: no such folder{nearest(str(path), near)}")
    raise RunError(f"{path}: is no bundle and no run that has one (no bundle.json in it)")


def _age(path: Path) -> float:
    return path.stat().st_mtime
