"""The posts of a source as Arrow columns: as written, as the model reads them, and by what they
are compared.

Owns where they are, in memory or in a mapped file: rows point at them, so that what grows with a
file is an index. Must not know of labels, splits or tokens.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mbti_ray.data.groups import COPY_LETTERS, text_key
from mbti_ray.data.mask import mask_text, type_mentions
from mbti_ray.data.text import clean_text
from mbti_ray.typology import TYPES

Places = NDArray[np.int64]

# A post: as written, and as the model reads it; the first 64 bits of a hash of either, of the
# latter by `text_key`, and whether that is long enough to be no coincidence; the types mentioned in
# either (once masked), in order, each an index in `TYPES`.
_SCHEMA = pa.schema(
    [
        ("post", pa.string()),
        ("text", pa.string()),
        ("written_key", pa.uint64()),
        ("key", pa.uint64()),
        ("is_long", pa.uint8()),
        ("mentions", pa.binary()),
        ("masked_mentions", pa.binary()),
    ]
)
# Posts read from a mapped file before its pages are given back.
_POSTS_RESIDENT = 50_000
_PLACE_OF = {mbti_type: place for place, mbti_type in enumerate(TYPES)}


@dataclass(frozen=True)
class Masking:
    """What is masked: `data.mask` and `data.mask_also`."""

    mask: bool
    also: tuple[str, ...]


def describe_posts(posts: Sequence[str], masking: Masking) -> pa.RecordBatch:
    """The columns of some posts, whose encoding has been repaired."""
    clean = [clean_text(post, is_repaired=True) for post in posts]
    masked = [mask_text(text, masking.also) for text in clean]
    texts = masked if masking.mask else clean
    keys = [text_key(text) for text in texts]
    columns = [
        posts,
        texts,
        [int(hash_parts("written", post), 16) for post in posts],
        [int(hash_parts("post", key), 16) for key in keys],
        [int(len(key) >= COPY_LETTERS) for key in keys],
        [_mentions_of(post) for post in posts],
        [_mentions_of(text) for text in masked],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def hash_parts(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _mentions_of(text: str) -> bytes:
    return bytes(_PLACE_OF[mbti_type] for mbti_type in type_mentions(text))


class PostStore:
    """The posts of a source, numbered from 0: their places.

    Args:
        path: Of the file that is to hold them; None holds them in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._writer = pa.ipc.new_file(str(path), _SCHEMA) if path else None
        self._map: mmap.mmap | None = None
        self._batches: list[pa.RecordBatch] = []
        self._starts = [0]
        self._read = 0

    def append(self, batch: pa.RecordBatch) -> int:
        """Add posts; returns the place of the first."""
        if self._writer is None:
            self._batches.append(batch)
        else:
            self._writer.write_batch(batch)
        self._starts.append(self._starts[-1] + batch.num_rows)
        return self._starts[-2]

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers, or of the lengths of mentions: [P]."""
        if column.endswith("mentions"):
            parts = [pc.binary_length(batch.column(column)) for batch in self._opened()]
        else:
            parts = [batch.column(column) for batch in self._opened()]
        found = np.concatenate([np.zeros(0, np.uint8), *(part.to_numpy() for part in parts)])
        self._release()
        return found.astype(parts[0].type.to_pandas_dtype()) if parts else found

    def read(self, column: str, places: Places) -> list[Any]:
        """The strings or bytes of a column at some places."""
        if not len(places):
            return []
        batches, starts = self._opened(), np.array(self._starts)
        inside = np.searchsorted(starts, places, side="right") - 1
        ends = np.flatnonzero((np.diff(places) != 1) | (np.diff(inside) != 0)) + 1
        found: list[Any] = []
        for first, end in pairwise([0, *ends.tolist(), len(places)]):
            batch = int(inside[first])
            start = int(places[first]) - self._starts[batch]
            found += batches[batch].column(column).slice(start, end - first).to_pylist()
        self._read += len(places)
        if self._read > _POSTS_RESIDENT:
            self._release()
        return found

    def _opened(self) -> list[pa.RecordBatch]:
        if self._writer is not None and self._path is not None:
            self._writer.close()
            self._writer = None
            with self._path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.py_buffer(self._map))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return self._batches

    def _release(self) -> None:
        """Pages of the file stay in the system's cache, but are not this process's any more."""
        self._read = 0
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


class StoredPosts(Sequence[str]):
    """The posts of a row, read from their store each time."""

    __slots__ = ("ranges", "store")

    def __init__(self, store: PostStore, ranges: Sequence[range]) -> None:
        self.store, self.ranges = store, ranges

    @property
    def places(self) -> Places:
        return np.concatenate([np.arange(r.start, r.stop) for r in self.ranges])

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.read("post", self.places))

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return [*self][place]


def join_posts(parts: Iterable[Sequence[str]]) -> Sequence[str]:
    """The posts of several rows as those of one."""
    parts = [*parts]
    if isinstance(parts[0], StoredPosts):
        ranges = [r for part in parts if isinstance(part, StoredPosts) for r in part.ranges]
        return StoredPosts(parts[0].store, ranges)
    return tuple(chain.from_iterable(parts))
