"""Copies of remote files in this user's cache."""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from mbti_ray.storage.remote import RemotePath, parse_location

_KEPT_S = 30 * 86400


def user_cache_folder() -> Path:
    """Where this user's machine keeps copies of what is far away."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mbti_ray"


def local_copy(remote: RemotePath, kind: str, contents: str) -> Path:
    """A copy of a file or folder in this user's cache, made once for the same contents.

    Processes that ask at the same time do not disturb each other. Copies that nobody has asked for
    in a month go when another one comes.

    Args:
        kind: The folder of the cache.
        contents: What tells this file or folder from any other.
    """
    key = hashlib.sha256(contents.encode()).hexdigest()[:16]
    copy = user_cache_folder() / kind / (key + PurePosixPath(remote.name).suffix)
    if copy.exists():
        # The time says when it was last of use; another user's cache cannot be told.
        with suppress(OSError):
            os.utime(copy)
    else:
        copy.parent.mkdir(parents=True, exist_ok=True)
        _forget(copy.parent)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".bringing-") as aside:
            remote.download(Path(aside, copy.name))
            # Another process may have been faster.
            with suppress(OSError):
                Path(aside, copy.name).rename(copy)
    return copy


def _forget(folder: Path) -> None:
    """Delete what has been of no use for a month, leavings of killed processes included."""
    for old in folder.iterdir():
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _KEPT_S:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def local_file(place: str | None) -> str | None:
    """The path of a small file; what a URL holds is copied into this user's cache."""
    if place is None or "://" not in place:
        return place
    file = parse_location(place)
    if isinstance(file, RemotePath):
        return str(local_copy(file, "files", file.read_text("utf-8")))
    return str(file)
