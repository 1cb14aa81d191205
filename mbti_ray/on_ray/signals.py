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
def sigterm_kept() -> Iterator[None]:
    """Ray leaves the handler of SIGTERM alone: while it starts, its own exit with 15 or 1."""
    set_handler = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = set_handler
