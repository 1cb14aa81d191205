"""Runs that are stored at a URL: Ray's storage settings, downloads of checkpoints, stop requests.

The upload is in `checkpoint_upload`. Must not know models.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, overload

from mbti_ray.errors import StorageError
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage.remote import Location, RemotePath
from mbti_ray.storage.working_copy import locked_working_copy, working_copy_path

# Between two checks of a URL for the file that asks a run to stop.
_POLL_S = 2.0


def ray_storage(location: Location) -> dict[str, Any]:
    """The arguments of Ray's run configs for a location; its workers use the same file system."""
    if isinstance(location, Path):
        return {"storage_path": str(location)}
    return {"storage_path": location.path, "storage_filesystem": location.filesystem}


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


class DownloadedCheckpoints(Sequence[Path]):
    """Checkpoints at a URL, each downloaded when it is accessed.

    A download is deleted when the next one is accessed, or with this object.
    """

    def __init__(self, remote: Sequence[RemotePath]) -> None:
        self._remote = remote
        self._downloads = ExitStack()
        weakref.finalize(self, self._downloads.close)

    def __len__(self) -> int:
        return len(self._remote)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return DownloadedCheckpoints(self._remote[index])
        remote = self._remote[index]
        self._downloads.close()
        path = working_copy_path(remote)
        self._downloads.enter_context(locked_working_copy(path, remote))
        # One that was deleted meanwhile is left empty: its reader reports it as damaged.
        if remote.exists():
            remote.download(path)
        return path
