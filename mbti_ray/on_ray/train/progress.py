"""Progress of a run: from rank 0, on any machine, to the progress bar of the driver.

(Ray's own tqdm uses the log stream, which Train's logging breaks; see docs/decisions.md.)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

# Called with the steps done since the last call, the steps in all, and a note.
OnProgress = Callable[[int, int, str], None]
_POLL_S = 0.5


@ray.remote(num_cpus=0)
class ProgressActor:
    """Holds the latest progress: rank 0 sets it, the driver polls it."""

    def __init__(self) -> None:
        self._latest = (0, 0, "")

    def set(self, done: int, total: int, note: str) -> None:
        self._latest = (done, total, note)

    def get(self) -> tuple[int, int, str]:
        return self._latest


@contextmanager
def relay_progress(on_progress: OnProgress | None) -> Iterator[Any]:
    """An actor handle for rank 0, whose progress is passed to `on_progress`; None without one."""
    if on_progress is None:
        yield None
        return
    actor = ProgressActor.remote()  # type: ignore[attr-defined]
    ended = threading.Event()

    def poll() -> None:
        shown, is_last = 0, False
        while not is_last:
            # Once more after the end, so that the bar shows the last step.
            is_last = ended.wait(_POLL_S)
            done, total, note = ray.get(actor.get.remote())
            if total:
                on_progress(done - shown, total, note)
                shown = done

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join()
        ray.kill(actor)
