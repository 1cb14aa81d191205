"""What Ray keeps where storage is a URL, and how it comes to the process that needs it."""

import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from mbti_ray.storage import Place, Remote, working_path, working_root


def storage_of(place: Place) -> dict[str, Any]:
    """The place as Ray's run configs take it; its workers write with the same file system."""
    if isinstance(place, Path):
        return {"storage_path": str(place)}
    return {"storage_path": place.path, "storage_filesystem": place.filesystem}


class Fetched(Sequence[Path]):
    """Checkpoints of a store, each brought to this machine when it is asked for.

    What was brought goes when the next one is asked for, or when nobody has this list any more.
    """

    def __init__(self, places: Sequence[Remote]) -> None:
        self._places = places
        self._roots: list[Path] = []
        weakref.finalize(self, _remove, self._roots)

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
        _remove(self._roots)
        path = working_path(place)
        self._roots.append(working_root(path, place))
        place.fetch(path)
        return path


def _remove(roots: list[Path]) -> None:
    while roots:
        shutil.rmtree(roots.pop(), ignore_errors=True)
