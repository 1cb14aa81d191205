"""The bundles that a replica answers with: one, or two side by side; changed without a pause.

A question that has begun is answered by the bundle that it began with, whatever happens to the
shelf meanwhile. Knows nothing of who asks for another bundle, or of Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mbti_ray.serving.schemas import ErrorCode, Question, WireError
from mbti_ray.serving.served_model import Reader
from mbti_ray.serving.target import Wanted


@dataclass(frozen=True)
class _Row:
    wanted: Wanted
    readers: dict[str, Reader]

    def reader(self, place: str) -> Reader:
        return self.readers[place]


class Shelf:
    """The readers of a replica, by what is wanted."""

    def __init__(self, load: Callable[[str, Reader | None], Reader], wanted: Wanted) -> None:
        """
        Args:
            load: A reader of the bundle at a place, checked and warm; it is given the reader of
                that place that there is, which may be one of a bundle that lay there before.

        Raises:
            BundleError: What is wanted cannot be served.
        """
        self._load = load
        self._row = _Row(wanted, {place: load(place, None) for place in wanted.places})

    @property
    def wanted(self) -> Wanted:
        """What is served now."""
        return self._row.wanted

    @property
    def is_ready(self) -> bool:
        # There is no shelf before its first row is loaded, checked and warm.
        return True

    @property
    def info(self) -> dict[str, Any]:
        row = self._row
        front = row.reader(row.wanted.front)
        found = {"bundle_id": front.bundle_id, **front.info}
        if row.wanted.beside is not None:
            beside = row.reader(row.wanted.beside)
            facts = {"bundle_id": beside.bundle_id, "share": row.wanted.share}
            found["beside"] = {**beside.info, **facts}
        return found

    def change(self, wanted: Wanted) -> None:
        """Serve something else from now on; may be called from any thread.

        Raises:
            BundleError: It cannot be served; what was served before still is.
        """
        known = self._row.readers
        readers = {place: self._load(place, known.get(place)) for place in wanted.places}
        self._row = _Row(wanted, readers)

    def choose(self, bundle_id: str | None, question: Question) -> Reader:
        """The reader for a question: of the bundle it asks for, or by share.

        The same question goes to the same bundle every time.

        Raises:
            WireError: NOT_FOUND, for a bundle that is not served.
        """
        row = self._row
        if bundle_id is not None:
            for reader in row.readers.values():
                if reader.bundle_id == bundle_id:
                    return reader
            served = ", ".join(reader.bundle_id for reader in row.readers.values())
            raise WireError(ErrorCode.NOT_FOUND, f"no such bundle is served; there is {served}")
        to_beside = row.wanted.beside is not None and _place_of(question) < row.wanted.share
        return row.reader(row.wanted.beside if to_beside else row.wanted.front)  # type: ignore[arg-type]


def _place_of(question: Question) -> float:
    """From 0 to 1, evenly, by the first text of a question."""
    digest = blake2b(question.users[0][0].encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
