"""Files and folders that appear whole: the one way in which this package writes to a final path.

Contents go to a temporary sibling, are flushed to the disk, and get their name by a rename. A kill
at any moment leaves the old contents or the new ones under that name, never a part. Modes are
those that the umask gives. Must not know what is written.
"""

import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from mbti_ray.errors import MbtiRayError, StorageError, one_line

# `.NAME.0123abcd.tmp` is being written, `.NAME.0123abcd.old` is being replaced.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|old)")
_LEFTOVER_S = 60
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a UTF-8 file that appears whole, and replaces the one that was there."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8", errors)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; at the end of the block the file gets its name.

    After an exception, or where the block deletes the temporary file, nothing has changed.

    Raises:
        StorageError: The disk does not take it.
    """
    with _writing(path) as temporary:
        temporary.touch()
        with _locked(temporary):
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            if temporary.exists():
                temporary.chmod(mode)
                _flush(temporary)
                temporary.replace(path)
                _flush(path.parent)


@contextmanager
def atomic_folder(path: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """An empty folder to fill; at the end of the block it gets its name.

    After an exception nothing has changed.

    Args:
        keep_existing: If the folder is there by then, because another process was first, keep that
            one. Otherwise replace it.

    Raises:
        StorageError: The disk does not take it.
    """
    with _writing(path) as temporary:
        temporary.mkdir()
        with _locked(temporary):
            yield temporary
            mode = stat.S_IMODE(temporary.stat().st_mode)
            for inner in [*temporary.rglob("*"), temporary]:
                inner.chmod(mode if inner.is_dir() else mode & 0o666)
                _flush(inner)
            _rename_folder(temporary, path, keep_existing=keep_existing)
            _flush(path.parent)


def recover_folder(path: Path) -> None:
    """Give a folder its name back, if a kill came while it was replaced.

    Only file systems that cannot exchange two names need it.
    """
    with suppress(OSError):
        if not path.exists():
            olds = path.parent.glob(f".{glob.escape(path.name)}.*.old")
            max(olds, key=lambda old: old.stat().st_mtime).rename(path)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """The name of a temporary sibling; what is left of it at the end is deleted."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path.parent)
        yield temporary
    except OSError as error:
        if isinstance(error, MbtiRayError):
            raise
        reason = error.strerror or one_line(error, limit=160)
        raise StorageError(
            f"{path}: cannot be written ({reason}); free space, or write to another place"
        ) from error
    finally:
        _delete(temporary)


@contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """Shows other processes that the temporary is in use, as long as this process lives."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        # Some network file systems cannot; there, leftovers stay.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@cache
def _delete_leftovers(folder: Path) -> None:
    """Delete what killed processes have left in a folder; once in a process."""
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or (found["kind"] == "old" and not (folder / found["name"]).exists()):
            continue
        with suppress(OSError):
            facts = path.lstat()
            # A young one may be about to be locked.
            if stat.S_ISLNK(facts.st_mode) or time.time() - facts.st_mtime < _LEFTOVER_S:
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(path)
            finally:
                os.close(handle)


def _delete(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _rename_folder(new: Path, path: Path, *, keep_existing: bool) -> None:
    old = new.with_suffix(".old")
    while True:
        try:
            new.rename(path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if keep_existing or _exchange(new, path):
            break
        # Two steps where the file system cannot exchange; see `recover_folder`.
        _delete(old)
        path.rename(old)
    _delete(old)


def _exchange(new: Path, path: Path) -> bool:
    """Exchange the names of two folders in one step; False where that cannot be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(new), os.fsencode(path)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
