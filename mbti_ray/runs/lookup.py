"""Finding runs and bundles below the storage folder, or at a path or URL."""

from datetime import datetime
from pathlib import Path

from mbti_ray.config import RunConfig
from mbti_ray.errors import ConfigError, RunError, nearest
from mbti_ray.runs.run_folder import Existing, RunFolder
from mbti_ray.storage.local_cache import local_copy, user_cache_folder
from mbti_ray.storage.remote import Location, RemotePath, parse_location

_CACHE = "cache"


def storage_folder(storage: str) -> Location:
    """The folder that `storage` names, absolute or by URL.

    Raises:
        ConfigError: It is a file, or no URL of a store.
        StorageError: The store cannot be reached.
    """
    folder = parse_location(storage)
    if isinstance(folder, RemotePath):
        return folder
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"storage={storage}: is a file; allowed: a folder")
    return folder


def cache_folder(storage: str) -> Path:
    """Where tokenised datasets are kept: with the runs, or on this machine where those are not."""
    folder = storage_folder(storage)
    return folder / _CACHE if isinstance(folder, Path) else user_cache_folder() / "datasets"


def resolve_run_folder(config: RunConfig, *, default_name: str, existing: Existing) -> RunFolder:
    """The folder of a new run, or of an old one to go on with; nothing is written yet.

    Without `name`, a new run is called after `default_name` and the time; with `existing=resume`
    it is then the newest run of that name that there is.

    Raises:
        RunError: The name exists and neither --resume nor --fresh was given; or there is nothing
            to resume; or the store cannot be reached or written to.
    """
    storage = storage_folder(config.storage)
    if isinstance(storage, RemotePath):
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


def newest_bundle(storage: Location) -> Location:
    """The newest best bundle under a storage folder: of a study, or else of a run.

    Raises:
        RunError: There is none.
    """
    for pattern in ("*/best/bundle/bundle.json", "*/bundle/bundle.json"):
        found = sorted(storage.glob(pattern), key=_age)
        if found:
            return found[-1].parent
    raise RunError(f"{storage}: holds no bundle; make one with `python -m mbti_ray.tune`")


def locate_bundle(place: str | None, storage: str) -> Location:
    """Where the bundle is that a command was given, or the newest under the storage folder.

    Raises:
        RunError: There is none.
    """
    return _bundle_at(parse_location(place)) if place else newest_bundle(storage_folder(storage))


def fetch_bundle(place: str | Location) -> Path:
    """The bundle of a path or URL, which may be that of a run or study, on this machine.

    What a URL holds is copied into this user's cache, once for each bundle.

    Raises:
        RunError: There is no bundle there, or the store cannot be reached.
    """
    bundle = _bundle_at(parse_location(place) if isinstance(place, str) else place)
    if isinstance(bundle, Path):
        return bundle
    # bundle.json has the size and hash of every other file, and what an export has added.
    return local_copy(bundle, "bundles", (bundle / "bundle.json").read_text("utf-8"))


def _bundle_at(place: Location) -> Location:
    for folder in (place, place / "bundle", place / "best" / "bundle"):
        if (folder / "bundle.json").is_file():
            return folder
    if not place.exists():
        near: list[str] = []
        if isinstance(place, Path) and place.parent.is_dir():
            near = [str(p) for p in place.parent.iterdir()]
        raise RunError(f"{place}: no such folder{nearest(str(place), near)}")
    raise RunError(f"{place}: is no bundle and no run that has one (no bundle.json in it)")


def _age(place: Location) -> float:
    return place.stat().st_mtime if isinstance(place, Path) else place.modified()
