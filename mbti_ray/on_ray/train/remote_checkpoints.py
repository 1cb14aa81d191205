"""What Ray keeps where storage is a URL, and how it comes to the process that needs it."""

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

# Between two looks for the file that asks a run to stop.
_LOOK_S = 2.0


def storage_of(place: Location) -> dict[str, Any]:
    """The place as Ray's run configs take it; its workers write with the same file system."""
    if isinstance(place, Path):
        return {"storage_path": str(place)}
    return {"storage_path": place.path, "storage_filesystem": place.filesystem}


@contextmanager
def watched(folder: RunFolder) -> Iterator[Callable[[], bool]]:
    """Whether a run is asked to stop, answered at once: a store is asked by a thread."""
    if folder.remote is None:
        yield folder.is_stop_requested
        return
    asked, ended = threading.Event(), threading.Event()

    def watch() -> None:
        while not asked.is_set() and not ended.wait(_LOOK_S):
            # Nothing is lost by a look that fails: there is another one.
            with suppress(StorageError):
                if folder.is_stop_requested():
                    asked.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield asked.is_set
    finally:
        ended.set()
        watcher.join()


class Fetched(Sequence[Path]):
    """Checkpoints of a store, each brought to this machine when it is asked for.

    What was brought goes when the next one is asked for, or when nobody has this list any more.
    """

    def __init__(self, places: Sequence[RemotePath]) -> None:
        self._places = places
        self._brought = ExitStack()
        weakref.finalize(self, self._brought.close)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return Fetched(self._places[index])
        place = self._places[index]
        self._brought.close()
        path = working_copy_path(place)
        self._brought.enter_context(locked_working_copy(path, place))
        # One that is gone is as one whose files are: who reads it says so, and takes the next.
        if place.exists():
            place.download(path)
        return path
