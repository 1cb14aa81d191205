"""The progress callback that long work takes. Must not know who shows progress, or how."""

from collections.abc import Callable

# Called with the number of rows (or posts) done since the last call, and a short note.
ProgressCallback = Callable[[int, str], None]


def no_progress(done: int, note: str) -> None:
    """The callback where nobody watches."""
