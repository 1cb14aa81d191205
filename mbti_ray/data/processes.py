"""A map over batches in several processes, in order, and how long work reports its progress.

Must not know what is mapped, who shows progress, or Ray.
"""

import gc
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import ModuleType
from typing import Any, Protocol, TypeVar

from mbti_ray.errors import DataError
from mbti_ray.storage.atomic import storage_errors

# More would wait for the one that reads the source.
_MAX_PROCESSES = 16

Item = TypeVar("Item")
Result = TypeVar("Result")
# Called with the number of rows (or posts) done since the last call, and a short note.
ProgressCallback = Callable[[int, str], None]


class MapBatches(Protocol):
    """Applies a function to batches, wherever it runs; yields the results in order."""

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]: ...


def no_progress(done: int, note: str) -> None:
    """The callback where nobody watches."""


def map_in_process(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The `MapBatches` of this process alone."""
    return map(function, items)


def _start_process() -> None:
    """Leave Ctrl-C to the command, and end when it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Batches make no cycles, and looking for them takes a tenth of the time.
    gc.disable()
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


# A function may have a tokenizer, which is much larger than a batch.
@lru_cache(maxsize=1)
def _load(path: Path) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = pickle.loads(path.read_bytes())
    return function


def _apply(path: Path, item: Any) -> Any:
    return _load(path)(item)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Spawned processes do not import the caller's script, which may have no `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ProcessMap:
    """A `MapBatches` on all cores of this machine.

    The processes are started for the second batch: a single one is done here. Each holds one batch
    and another one waits for it, so memory does not grow with their number.
    """

    def __init__(self, processes: int | None = None) -> None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._processes = processes or min(available, _MAX_PROCESSES)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "ProcessMap":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        items = iter(items)
        head = [*islice(items, 2)]
        if len(head) < 2 or self._processes == 1:
            yield from map(function, chain(head, items))
            return
        if self._pool is None:
            # Not forked: this process may have threads, and libraries that do not survive a fork.
            self._pool = ProcessPoolExecutor(
                self._processes, get_context("spawn"), initializer=_start_process
            )
        running: deque[Future[Any]] = deque()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "function"
            with storage_errors(path):
                path.write_bytes(pickle.dumps(function))
            try:
                for item in chain(head, items):
                    with _main_hidden():
                        running.append(self._pool.submit(_apply, path, item))
                    if len(running) > 2 * self._processes:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            except BrokenProcessPool:
                raise DataError(
                    "a process that prepares the data was killed; if memory ran out, allow fewer "
                    "cores (taskset -c 0) or use a machine with more of it"
                ) from None
