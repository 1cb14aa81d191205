"""Files and folders that appear whole: the one way in which this package writes to a final path.

Contents go to a temporary sibling, are flushed to the disk, and get their name by a rename. A kill
at any moment leaves the old contents or the new ones under that name. Modes follow the umask.
"""

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from mbti_ray.errors import MbtiRayError, StorageError, one_line

_TEMPORARY = ".*.????????.tmp"
_LEFTOVER_S = 60
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a UTF-8 file that appears whole, and replaces the one that was there."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, "utf-8", errors)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to; at the end of the block the file gets its name.

    After an exception, or if the block deletes the temporary file, nothing has changed. Raises
    StorageError where the disk is full, read-only, or refuses for another reason.
    """
    with _temporary(path, Path.touch) as temporary:
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        if temporary.exists():
            # Some libraries put a file there that only its user may read.
            temporary.chmod(mode)
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)


@contextmanager
def atomic_folder(path: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """An empty folder to fill; at the end of the block it gets its name. Errors as `atomic_file`.

    With `keep_existing` the folder of another process that was first is not replaced.
    """
    with _temporary(path, Path.mkdir) as temporary:
        yield temporary
        mode = temporary.stat().st_mode & 0o777
        for inner in [*temporary.rglob("*"), temporary]:
            # As in `atomic_file`.
            inner.chmod(mode if inner.is_dir() else mode & 0o666)
            _flush(inner)
        _rename_folder(temporary, path, keep_existing=keep_existing)
        _flush(path.parent)


def recover_folder(path: Path) -> None:
    """Finish a replacement that a kill interrupted; only needed if names cannot be exchanged."""
    olds = list(path.parent.glob(f".{glob.escape(path.name)}.????????.old"))
    with suppress(OSError):
        if olds and not path.exists():
            olds.pop().rename(path)
    for old in olds:
        _delete(old)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an error of the disk in the block into a StorageError about `path`, in one sentence."""
    try:
        yield
    except Exception as error:
        # Libraries in other languages have exceptions of their own for a full disk, or hide it.
        raised = [e for e in (error.__context__, error) if e is not None]
        full = (e for e in raised if any(os.strerror(number) in str(e) for number in FULL))
        cause = next(full, error if isinstance(error, OSError) else None)
        if isinstance(error, MbtiRayError) or cause is None:
            raise
        reason = getattr(cause, "strerror", None) or one_line(cause, limit=160)
        raise StorageError(
            f"{path}: cannot be written ({reason}); free space, or write to another place"
        ) from error


@contextmanager
def _temporary(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            delete_leftovers(path.parent, _TEMPORARY)
            create(temporary)
            with try_lock(temporary):
                yield temporary
    finally:
        _delete(temporary)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether this process has the lock; the kernel releases it when the process ends."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        has_lock = True
    except OSError:
        # In use, or a network file system without locks, where leftovers stay.
        has_lock = False
    try:
        yield has_lock
    finally:
        os.close(handle)


@cache
def delete_leftovers(folder: Path, pattern: str) -> None:
    """Delete what killed processes have left unlocked; once per folder in a process."""
    for path in folder.glob(pattern):
        with suppress(OSError):
            # A new one may not be locked yet.
            if time.time() - path.lstat().st_mtime > _LEFTOVER_S:
                with try_lock(path) as is_leftover:
                    if is_leftover:
                        _delete(path)


def _delete(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot flush a folder.
        if error.errno != errno.EINVAL:
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
        # Two steps if the file system cannot exchange names; see `recover_folder`.
        _delete(old)
        path.rename(old)
    _delete(old)


def _exchange(new: Path, path: Path) -> bool:
    """Exchange the names of two folders in one step; False if that is not possible."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(new), os.fsencode(path)
    return bool(
        renameat2 and renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    )
