"""A lock on a run for the life of a command, so that no two commands write to the same folder.

On a disk the kernel releases it with its process. In a bucket, each command writes and renews an
object of its own, and gets the lock if no other one is alive. Must not know what is in a run.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from mbti_ray.errors import RunError, StorageError
from mbti_ray.storage.atomic import storage_errors
from mbti_ray.storage.remote import Location, RemotePath

_RENEW_S, _EXPIRE_S = 10.0, 60.0
# How long commands that start at the same time wait for each other.
_SETTLE_S, _POLL_S = 5.0, 0.2


def run_lock(run: Location) -> AbstractContextManager[None]:
    """Holds the lock of a run or study, which need not exist yet.

    Raises RunError, with host, process and start, if another command holds it.
    """
    return _file_lock(run) if isinstance(run, Path) else _bucket_lock(run)


@contextmanager
def _file_lock(run: Path) -> Iterator[None]:
    path = run.with_name(f".{run.name}.lock")
    created = [parent for parent in path.parents if not parent.exists()]
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path, run)
    with file:
        try:
            with storage_errors(path):
                file.truncate()
                file.write(json.dumps(describe_process()))
                file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)
            for folder in created:
                # It stays if there is a run in it.
                with suppress(OSError):
                    folder.rmdir()


def _open_locked(path: Path, run: Path) -> TextIO:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise _in_use(run, file.read()) from None
        except OSError as error:
            # Some network file systems have no locks; there, nothing is protected.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            return file
        # The last owner may have deleted it in between.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


@contextmanager
def _bucket_lock(run: RemotePath) -> Iterator[None]:
    mine = run.parent / f".{run.name}.lock" / uuid4().hex
    process = describe_process()
    owner = json.dumps(process | {"has_lock": True})
    is_over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(mine, owner, is_over), daemon=True)
    # Before the block: a store that does not answer, each time after seconds, is not asked twice.
    mine.write_text(json.dumps(process), "utf-8")
    try:
        deadline = time.monotonic() + _SETTLE_S
        while (other := _other_owner(mine)) is not None:
            # Of those that start at the same time, the one whose name sorts first waits.
            has_lock = json.loads(other[1]).get("has_lock")
            if has_lock or other[0] < mine.name or time.monotonic() > deadline:
                raise _in_use(run, other[1])
            time.sleep(_POLL_S)
        mine.write_text(owner, "utf-8")
        renewal.start()
        yield
    finally:
        is_over.set()
        if renewal.ident:
            renewal.join()
        with suppress(StorageError):
            mine.delete()


def _renew(mine: RemotePath, owner: str, is_over: threading.Event) -> None:
    while not is_over.wait(_RENEW_S):
        # A store that is lost for a while may be back at the next time.
        with suppress(StorageError):
            mine.write_text(owner, "utf-8")


def _other_owner(mine: RemotePath) -> tuple[str, str] | None:
    """The name and owner of another object of the lock; objects of dead commands are deleted."""
    written = mine.modified()
    for other in mine.parent.files():
        if other.name == mine.name:
            continue
        # It may be deleted in between.
        with suppress(StorageError):
            owner = other.read_text("utf-8")
            # Both times are the store's.
            if written - other.modified() > _EXPIRE_S or is_alive(json.loads(owner)) is False:
                other.delete()
            else:
                return other.name, owner
    return None


def describe_process() -> dict[str, Any]:
    """Host, number and start of this process, as plain values for `is_alive`."""
    since = datetime.now().isoformat(" ", "seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "pids": _pids()}


def _pids() -> str:
    """Identifies the table in which process numbers of this process are valid."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def is_alive(process: dict[str, Any]) -> bool | None:
    """Whether a process of this machine still runs; None if it is one of another machine."""
    here = (socket.gethostname(), _pids())
    if (process["host"], process["pids"]) != here or not here[1]:
        return None
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _in_use(run: Location, text: str) -> RunError:
    try:
        owner = json.loads(text)
        holder = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except ValueError:
        holder = "another command that has just started"
    return RunError(f"{run}: in use by {holder}; wait for its end, or choose another name=...")
