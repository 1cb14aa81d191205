"""Finds runs and bundles below the storage folder, or at a path or URL. Reads no model."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from mbti_ray.config import RunConfig
from mbti_ray.errors import ConfigError, RunError, nearest
from mbti_ray.runs.run_folder import Existing, RunFolder
from mbti_ray.runs.run_lock import run_lock
from mbti_ray.storage.atomic import recover_folder
from mbti_ray.storage.checksums import FileRecord, find_damage
from mbti_ray.storage.local_cache import local_copy, user_cache_folder
from mbti_ray.storage.remote import Location, RemotePath, parse_location

_CACHE = "cache"


def storage_folder(storage: str) -> Location:
    """The folder of the config key `storage`, absolute or in a bucket; a ConfigError for a file."""
    folder = parse_location(storage)
    if isinstance(folder, RemotePath):
        return folder
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"storage={storage}: is a file; allowed: a folder")
    return folder


def cache_folder(storage: str) -> Path:
    """The folder of tokenized datasets: with the runs, or on this machine if those are remote."""
    folder = storage_folder(storage)
    return folder / _CACHE if isinstance(folder, Path) else user_cache_folder() / "datasets"


@contextmanager
def locked_run_folder(
    config: RunConfig, *, default_name: str, existing: Existing
) -> Iterator[RunFolder]:
    """The folder of a new run, or of an existing one to resume or replace, under its lock.

    Nothing is written to it yet. Without the config key `name`, the name is `default_name` and the
    time; to resume, it is the newest run with that `default_name`. Raises RunError if the run
    exists and neither --resume nor --fresh was given, is not there to resume, or is in use.
    """
    storage = storage_folder(config.storage)
    name = config.name or _default_name(storage, default_name, existing)
    if name == _CACHE:
        raise ConfigError(f"name={name}: is the folder of tokenized data; choose another name")
    with run_lock(storage / name):
        _check_existing(storage, name, existing)
        yield RunFolder.at(storage / name)


def _default_name(storage: Location, default_name: str, existing: Existing) -> str:
    if existing != "resume":
        return f"{default_name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = sorted(storage.glob(f"{default_name}-*/config.yaml"), key=_modified)
    if not candidates:
        raise RunError(f"{storage}: no run called {default_name}-... to resume")
    return candidates[-1].parent.name


def _check_existing(storage: Location, name: str, existing: Existing) -> None:
    location = storage / name
    exists, is_run = location.exists(), (location / "config.yaml").exists()
    if existing == "resume" and not is_run:
        near = nearest(name, [p.parent.name for p in storage.glob("*/config.yaml")])
        raise RunError(f"{location}: no run to resume{near}")
    if exists and existing == "refuse":
        raise RunError(
            f"{location}: exists already; --resume continues it, --fresh deletes it first, "
            "name=... chooses another"
        )
    if exists and existing == "fresh" and not is_run:
        raise RunError(f"{location}: contains no config.yaml, so it is not a run; not deleted")


def run_of(location: Location) -> Location | None:
    """The run or study that a folder belongs to, at most two levels above it; None without one."""
    places = [p for p in (location, location.parent, location.parent.parent) if p.name]
    # The outermost: the best of a study has a config of its own, but not its own lock.
    return next((p for p in reversed(places) if (p / "config.yaml").is_file()), None)


def require_outside_bundles(place: Path) -> None:
    """Raises ConfigError for a place in a bundle, which is refused once it has other files."""
    for folder in place.resolve().parents:
        if (folder / "bundle.json").exists():
            raise ConfigError(f"{place}: is inside the bundle {folder}; name another place")


@contextmanager
def locked_outputs(*files: Path | None) -> Iterator[None]:
    """Holds the locks of the runs in whose folders these files are; refuses one in a bundle."""
    for file in filter(None, files):
        require_outside_bundles(file)
    runs = {run_of(file.resolve().parent) for file in files if file is not None}
    with ExitStack() as locks:
        for run in runs:
            if run is not None:
                locks.enter_context(run_lock(run))
        yield


def newest_bundle(storage: Location) -> Location:
    """The newest bundle in a storage folder: the best of a study, otherwise that of a run."""
    for old in storage.glob("*/config.yaml") if isinstance(storage, Path) else ():
        recover_folder(old.parent / "bundle")
        recover_folder(old.parent / "best" / "bundle")
    for pattern in ("*/best/bundle/bundle.json", "*/bundle/bundle.json"):
        found = sorted(storage.glob(pattern), key=_modified)
        if found:
            return found[-1].parent
    raise RunError(f"{storage}: contains no bundle; create one with `python -m mbti_ray.tune`")


def locate_bundle(path_or_url: str | None, storage: str) -> Location:
    """Where the bundle given to a command is; None stands for the newest in the storage folder."""
    if path_or_url:
        return _bundle_in(parse_location(path_or_url))
    return newest_bundle(storage_folder(storage))


def fetch_bundle(location: str | Location) -> Path:
    """The folder on this machine of the bundle at a path or URL, or in the run or study there.

    One in a bucket is downloaded into this user's cache, once. Raises RunError without a bundle.
    """
    bundle = _bundle_in(parse_location(location) if isinstance(location, str) else location)
    if isinstance(bundle, Path):
        return bundle
    # bundle.json has the sizes and hashes of all other files, those of an export included.
    return local_copy(bundle, "bundles", (bundle / "bundle.json").read_text("utf-8"), _is_intact)


def _is_intact(bundle: Path) -> bool:
    """Whether the files of a local copy are as its bundle.json lists them."""
    try:
        files = json.loads((bundle / "bundle.json").read_text("utf-8"))["files"]
        return find_damage(bundle, {n: FileRecord(**r) for n, r in files.items()}) is None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def _bundle_in(location: Location) -> Location:
    for folder in (location, location / "bundle", location / "best" / "bundle"):
        if isinstance(folder, Path):
            recover_folder(folder)
        if (folder / "bundle.json").is_file():
            return folder
    if not location.exists():
        near: list[str] = []
        if isinstance(location, Path) and location.parent.is_dir():
            near = [str(p) for p in location.parent.iterdir()]
        raise RunError(f"{location}: no such folder{nearest(str(location), near)}")
    raise RunError(f"{location}: is not a bundle or a run with a bundle (no bundle.json in it)")


def _modified(location: Location) -> float:
    return location.stat().st_mtime if isinstance(location, Path) else location.modified()
