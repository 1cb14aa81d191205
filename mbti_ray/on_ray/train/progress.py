"""Progress of a run: from rank 0, on any machine, to the driver, through the GCS's key-value store.

No actor, which would be one more process for each run; and not Ray's tqdm, which uses the log
stream that Train's logging breaks (see docs/decisions.md).
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from uuid import uuid4

from ray.exceptions import RayError
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

from mbti_ray.engine.metrics_record import MetricsRecord

_NAMESPACE = "mbti_ray"
_POLL_S = 0.5


class Display(Protocol):
    """Who shows the progress on the driver."""

    def advance(self, done: int, total: int, note: str) -> None:
        """Steps done since the last call, the total number of steps, and a note."""

    def add_epoch(self, record: MetricsRecord) -> None:
        """An epoch has ended."""


class ProgressSender:
    """What rank 0 has: the latest progress replaces the one before, every epoch is kept."""

    def __init__(self, key: str) -> None:
        self._key = key

    def is_restart(self) -> bool:
        """Whether this was asked before: Ray has started the workers again."""
        return bool(_internal_kv_put(f"{self._key}/started", "1", False, namespace=_NAMESPACE))

    def set(self, done: int, total: int, note: str) -> None:
        _put(f"{self._key}/steps", [done, total, note])

    def add_epoch(self, record: MetricsRecord) -> None:
        # A restarted worker repeats epochs: each has one key.
        _put(f"{self._key}/epochs/{record['epoch']:06}", record)


def _put(key: str, value: Any) -> None:
    # Nobody's training fails because it cannot be watched.
    with suppress(RayError):
        _internal_kv_put(key, json.dumps(value), namespace=_NAMESPACE)


def _get(key: str | bytes) -> Any:
    value = _internal_kv_get(key, namespace=_NAMESPACE)
    return json.loads(value) if value else None


@contextmanager
def relay_progress(display: Display | None) -> Iterator[ProgressSender | None]:
    """What rank 0 needs to have its progress shown; None without a display."""
    if display is None:
        yield None
        return
    key = f"progress/{uuid4().hex}"
    ended = threading.Event()

    def poll() -> None:
        position, seen, is_last = 0, set[bytes](), False
        while not is_last:
            # Once more after the end, so that the last epoch is shown.
            is_last = ended.wait(_POLL_S)
            with suppress(RayError):
                for epoch in sorted(
                    {*_internal_kv_list(f"{key}/epochs/", namespace=_NAMESPACE)} - seen
                ):
                    display.add_epoch(_get(epoch))
                    seen.add(epoch)
                if steps := _get(f"{key}/steps"):
                    done, total, note = steps
                    display.advance(done - position, total, note)
                    position = done

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield ProgressSender(key)
    finally:
        ended.set()
        thread.join()
        with suppress(RayError):
            _internal_kv_del(key, del_by_prefix=True, namespace=_NAMESPACE)
