"""Progress of a run, from rank 0 wherever it is to the bar of the person who waits.

(Ray's own tqdm goes through the log stream, which Train's logging breaks; see docs/decisions.md.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

# Told the steps done since the last time, the steps in all, and a note.
Show = Callable[[int, int, str], None]
_LOOK_S = 0.5


@ray.remote(num_cpus=0)
class Board:
    """Where rank 0 writes how far it is, and the driver reads it."""

    def __init__(self) -> None:
        self._state = (0, 0, "")

    def write(self, done: int, total: int, note: str) -> None:
        self._state = (done, total, note)

    def read(self) -> tuple[int, int, str]:
        return self._state


@contextmanager
def board(show: Show | None) -> Iterator[Any]:
    """A handle for rank 0 to write to while `show` is told; None where nobody watches."""
    if show is None:
        yield None
        return
    handle = Board.remote()  # type: ignore[attr-defined]
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(handle, show, ended), daemon=True)
    watcher.start()
    try:
        yield handle
    finally:
        ended.set()
        watcher.join()
        ray.kill(handle)


def _watch(handle: Any, show: Show, ended: threading.Event) -> None:
    shown, is_last = 0, False
    while not is_last:
        # After the end once more, so that the bar stops where the run did.
        is_last = ended.wait(_LOOK_S)
        done, total, note = ray.get(handle.read.remote())
        if total:
            show(done - shown, total, note)
            shown = done
