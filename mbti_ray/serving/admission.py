"""Admission control: every 429 of the service is made here.

Two limits: how many requests a replica holds at once (`ConcurrencyLimiter`), and how long one would
have to wait for the model (`check_wait`). Must not know what a request contains.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mbti_ray.serving.schemas import APIError, ErrorCode


class ConcurrencyLimiter:
    """Counts the requests in progress and refuses the ones above the limit.

    Attributes:
        free: How many more requests would be admitted.
    """

    def __init__(self, slots: int) -> None:
        self.free = slots

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds one slot until the end of the block, or raises APIError (QUEUE_FULL)."""
        if not self.free:
            raise APIError(ErrorCode.QUEUE_FULL, "busy: too many requests in progress")
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


def check_wait(wait_s: float, *, max_wait_s: float) -> None:
    """Raises APIError (QUEUE_FULL, with Retry-After) if a request would wait too long."""
    if wait_s > max_wait_s:
        message = f"busy: an answer would take {wait_s:.0f} s"
        raise APIError(ErrorCode.QUEUE_FULL, message, retry_after_s=max(1, round(wait_s)))
