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
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mbti_ray.config import RunConfig, dump_config
from mbti_ray.errors import ConfigError, MbtiRayError, RunError, nearest
from mbti_ray.storage.remote import (
    Place,
    Remote,
    held,
    local_copy,
    place_at,
    told,
    user_cache,
    working_path,
)

Existing = Literal["refuse", "resume", "fresh"]
_CACHE = "cache"
# What says that the files beside it are all there; put up last, in this order.
_MARKS = ("bundle.json", "scores.json")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or study.

    Attributes:
        path: Where this process reads and writes its files.
        remote: Where they are kept, if that is not there; `path` is a working copy then, which is
            only there inside `at_hand`.
    """

    path: Path
    remote: Remote | None = None
    _kept: dict[Path, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def at(cls, place: Place) -> "RunFolder":
        """The folder of a run wherever it is."""
        if isinstance(place, Path):
            return cls(place)
        return cls(working_path(place), place)

    @property
    def home(self) -> Place:
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
    def at_hand(self) -> Iterator["RunFolder"]:
        """Its files on this machine, as long as they are worked with; nothing is left behind.

        Errors that leave it speak of where the run is kept.
        """
        if self.remote is None:
            yield self
            return
        with held(self.path, self.remote):
            try:
                self.bring()
                yield self
            except MbtiRayError as error:
                error.args = (self.told(str(error)),)
                raise

    def bring(self) -> None:
        """Take what is kept elsewhere into the working copy: its files, none of its folders."""
        if self.remote is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.remote.files():
            target = self.path / file.name
            file.fetch(target)
            self._kept[target] = _state(target)

    def keep(self, *, anew: Sequence[str] = ()) -> None:
        """Put up what has changed in the working copy.

        Args:
            anew: Folders that are replaced whole.
        """
        if self.remote is None:
            return
        for name in anew:
            (self.remote / name).delete()
        files = [p for p in self.path.rglob("*") if p.is_file() and self._kept.get(p) != _state(p)]
        for path in sorted(files, key=_mark):
            state = _state(path)
            (self.remote / path.relative_to(self.path).as_posix()).put(path)
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
        self.keep()

    def ask_to_stop(self) -> None:
        self.stop.touch()
        self.keep()

    def is_asked_to_stop(self) -> bool:
        """Whether somebody has made the file `stop`, wherever the run is kept."""
        return (self.remote / self.stop.name).exists() if self.remote else self.stop.exists()

    def told(self, text: str) -> str:
        """A message as people should read it, though it speaks of the working copy."""
        return told(text, self.remote) if self.remote else text

    def write_bad_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was left out of the data, a JSON line each; no file where that is nothing."""
        if rows:
            self.bad_rows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            self.keep()

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        self.scores.write_text(json.dumps(scores, indent=2) + "\n", "utf-8")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _mark(path: Path) -> int:
    return _MARKS.index(path.name) if path.name in _MARKS else -1


def storage_folder(storage: str) -> Place:
    """The folder that `storage` names, absolute or by URL.

    Raises:
        ConfigError: It is a file, or no URL of a store.
        StorageError: The store cannot be reached.
    """
    folder = place_at(storage)
    if isinstance(folder, Remote):
        return folder
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"storage={storage}: is a file; allowed: a folder")
    return folder


def cache_folder(storage: str) -> Path:
    """Where tokenised datasets are kept: with the runs, or on this machine where those are not."""
    folder = storage_folder(storage)
    return folder / _CACHE if isinstance(folder, Path) else user_cache() / "datasets"


def choose_run(config: RunConfig, *, default_name: str, existing: Existing) -> RunFolder:
    """The folder of a new run, or of an old one to go on with; nothing is written yet.

    Without `name`, a new run is called after `default_name` and the time; with `existing=resume`
    it is then the newest run of that name that there is.

    Raises:
        RunError: The name exists and neither --resume nor --fresh was given; or there is nothing
            to resume; or the store cannot be reached or written to.
    """
    storage = storage_folder(config.storage)
    if isinstance(storage, Remote):
        storage.check_writable()
    name = config.name
    if name is None and existing == "resume":
        candidates = sorted(storage.glob(f"{default_name}-*/config.yaml"), key=_age)
        if not candidates:
            raise RunError(f"{storage}: no run called {default_name}-... to resume")
        return RunFolder.at(candidates[-1].parent)
    if name is None:
        name = f"{default_name}-{datetime.now():%Y%m%d-%H%M%S}"
    if name == _CACHE:
        raise ConfigError(f"name={name}: is the folder of tokenised data; choose another name")
    place = storage / name
    exists, is_run = place.exists(), (place / "config.yaml").exists()
    if existing == "resume" and not is_run:
        near = nearest(name, [p.parent.name for p in storage.glob("*/config.yaml")])
        raise RunError(f"{place}: no run to resume{near}")
    if exists and existing == "refuse":
        raise RunError(
            f"{place}: exists already; --resume goes on with it, --fresh deletes it first, "
            "name=... takes another"
        )
    if exists and existing == "fresh" and not is_run:
        raise RunError(f"{place}: holds no config.yaml, so it is no run; not deleted")
    return RunFolder.at(place)


@contextmanager
def open_run(place: str | Place) -> Iterator[RunFolder]:
    """The run or study at a path or URL, its files at hand."""
    with RunFolder.at(place_at(place) if isinstance(place, str) else place).at_hand() as folder:
        yield folder


def newest_bundle(storage: Place) -> Place:
    """The newest best bundle under a storage folder: of a study, or else of a run.

    Raises:
        RunError: There is none.
    """
    for pattern in ("*/best/bundle/bundle.json", "*/bundle/bundle.json"):
        found = sorted(storage.glob(pattern), key=_age)
        if found:
            return found[-1].parent
    raise RunError(f"{storage}: holds no bundle; make one with `python -m mbti_ray.tune`")


def bundle_place(place: str | None, storage: str) -> Place:
    """Where the bundle is that a command was given, or the newest under the storage folder.

    Raises:
        RunError: There is none.
    """
    return _bundle_at(place_at(place)) if place else newest_bundle(storage_folder(storage))


def find_bundle(place: str | Place) -> Path:
    """The bundle of a path or URL, which may be that of a run or study, on this machine.

    What a URL holds is copied into this user's cache, once for each bundle.

    Raises:
        RunError: There is no bundle there, or the store cannot be reached.
    """
    bundle = _bundle_at(place_at(place) if isinstance(place, str) else place)
    if isinstance(bundle, Path):
        return bundle
    # bundle.json has the size and hash of every other file, and what an export has added.
    return local_copy(bundle, "bundles", (bundle / "bundle.json").read_text("utf-8"))


def _bundle_at(place: Place) -> Place:
    for folder in (place, place / "bundle", place / "best" / "bundle"):
        if (folder / "bundle.json").is_file():
            return folder
    if not place.exists():
        near: list[str] = []
        if isinstance(place, Path) and place.parent.is_dir():
            near = [str(p) for p in place.parent.iterdir()]
        raise RunError(f"{place}: no such folder{nearest(str(place), near)}")
    raise RunError(f"{place}: is no bundle and no run that has one (no bundle.json in it)")


def _age(place: Place) -> float:
    return place.stat().st_mtime if isinstance(place, Path) else place.modified()
