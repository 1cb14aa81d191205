"""Handling Ctrl-C and SIGTERM for the length of a block."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray


@contextmanager
def handle_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` with the number of a signal; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, frame: handle(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """What the process does on SIGTERM stays as it is while Ray starts in the block.

    Ray's own handlers exit with 15 or 1, and its C++ code sets one that aborts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, set_handler = signal.getsignal(signal.SIGTERM), ray._private.utils.set_sigterm_handler

    def restore(theirs: object = None) -> None:
        # None: not set by Python.
        if ours is not None:
            signal.signal(signal.SIGTERM, ours)

    ray._private.utils.set_sigterm_handler = restore
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = set_handler
        restore()
