"""Copies of remote files in this user's cache. Must not know what they contain."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from mbti_ray.storage.atomic import atomic_file, atomic_folder
from mbti_ray.storage.remote import RemotePath, parse_location

_UNUSED_S = 30 * 86400


def user_cache_folder() -> Path:
    """The cache folder of this user on this machine."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mbti_ray"


def local_copy(
    remote: RemotePath, kind: str, contents: str, is_intact: Callable[[Path], bool] | None = None
) -> Path:
    """A copy of a file or folder in this user's cache, downloaded once for a URL and contents.

    Several processes may call it at the same time. A download deletes the copies that nobody has
    used for a month, and replaces one that is not intact.

    Args:
        kind: The subfolder of the cache.
        contents: Text that identifies the contents; its hash, with the URL, is the key.
    """
    key = hashlib.sha256(f"{remote}\n{contents}".encode()).hexdigest()[:16]
    copy = user_cache_folder() / kind / (key + PurePosixPath(remote.name).suffix)
    is_damaged = copy.exists() and is_intact is not None and not is_intact(copy)
    if copy.exists() and not is_damaged:
        touch(copy)
    else:
        delete_unused(copy.parent)
        is_file, keep = remote.is_file(), not is_damaged
        whole = atomic_file(copy) if is_file else atomic_folder(copy, keep_existing=keep)
        with whole as temporary:
            remote.download(temporary)
    return copy


def touch(path: Path) -> None:
    """Set the modification time of a file or folder of a cache, which is that of its last use."""
    # That of another user cannot be set.
    with suppress(OSError):
        os.utime(path)


def delete_unused(folder: Path) -> None:
    """Delete what nobody has used for a month in the folder of a cache."""
    for old in folder.glob("*"):
        with suppress(OSError):
            if time.time() - old.lstat().st_mtime > _UNUSED_S:
                shutil.rmtree(old) if old.is_dir() else old.unlink()


def local_file(path_or_url: str | None) -> str | None:
    """The path of a small file; one at a URL is copied into this user's cache."""
    if path_or_url is None or "://" not in path_or_url:
        return path_or_url
    file = parse_location(path_or_url)
    if isinstance(file, RemotePath):
        return str(local_copy(file, "files", file.read_text("utf-8")))
    return str(file)
