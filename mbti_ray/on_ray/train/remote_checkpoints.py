"""Runs that are stored at a URL: Ray's storage settings, outages, checkpoints, stop requests.

Must not know models.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.errors import StorageError
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage.remote import Location, RemotePath
from mbti_ray.storage.working_copy import locked_working_copy, working_copy_path

Result = TypeVar("Result")

# Between two checks of a URL for the file that asks a run to stop.
_POLL_S = 2.0
# How long a run waits for a store that does not answer, and between two attempts.
_OUTAGE_S, _RETRY_S = 600.0, 5.0


def ray_storage(location: Location) -> dict[str, Any]:
    """The arguments of Ray's run configs for a location; its workers use the same file system."""
    if isinstance(location, Path):
        return {"storage_path": str(location)}
    return {"storage_path": location.path, "storage_filesystem": location.filesystem}


def outlast(operation: Callable[[], Result], location: Location) -> Result:
    """The result of an operation on the store of a run, tried again while the store is away.

    After ten minutes its OSError is raised; at once where the run is in a folder.
    """
    end = time.monotonic() + _OUTAGE_S
    while True:
        try:
            return operation()
        except OSError as error:
            # Those with a number are of a disk of this machine.
            if isinstance(location, Path) or error.errno or time.monotonic() > end:
                raise
        time.sleep(_RETRY_S)


@contextmanager
def watch_for_stop(folder: RunFolder) -> Iterator[Callable[[], bool]]:
    """A function that returns at once whether a run was asked to stop.

    A thread polls for the stop file where the run is stored at a URL.
    """
    if folder.remote is None:
        yield folder.is_stop_requested
        return
    requested, ended = threading.Event(), threading.Event()

    def poll() -> None:
        while not requested.is_set() and not ended.wait(_POLL_S):
            # A check that fails is repeated.
            with suppress(StorageError):
                if folder.is_stop_requested():
                    requested.set()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield requested.is_set
    finally:
        ended.set()
        thread.join()


def stored_checkpoints(newest: Any, home: Location) -> Iterator[Path]:
    """Ray's newest checkpoint below `home` and those next to it; from a bucket as downloads."""
    if newest is not None:
        path = Path(newest.path)
        store: Any = home / path.parent.name
        reach: Any = iter if isinstance(home, Path) else download_each
        yield from reach([store / path.name])
        yield from reach([p for p in checkpoints_under(store) if p.name != path.name])


def download_each(checkpoints: Iterable[RemotePath]) -> Iterator[Path]:
    """Each checkpoint as a download, which is deleted when the next one is taken."""
    for remote in checkpoints:
        path = working_copy_path(remote)
        with locked_working_copy(path, remote):
            # One that was deleted meanwhile is left empty: its reader reports it as damaged.
            if remote.exists():
                remote.download(path)
            yield path
