"""The posts of a source as Arrow columns: as written, as the model reads them, and by what they
are compared.

Owns where they are, in a mapped temporary file, and which of them make a row: what grows with a
source is an index. Must not know of labels, splits or tokens.
"""

import hashlib
import mmap
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.mask import mask_text, type_mentions
from mbti_ray.data.split import COPY_LETTERS, Indices, text_key
from mbti_ray.data.text import clean_text
from mbti_ray.storage.atomic import storage_errors
from mbti_ray.typology import TYPES

# A post: as written, and as the model reads it; the first 64 bits of a hash of either, of the
# latter by `text_key`, and whether that is long enough to be no coincidence; the types mentioned in
# either (once masked), in order, each an index in `TYPES`.
_SCHEMA = pa.schema(
    [
        ("post", pa.large_string()),
        ("text", pa.large_string()),
        ("written_key", pa.uint64()),
        ("key", pa.uint64()),
        ("is_long", pa.uint8()),
        ("mentions", pa.large_binary()),
        ("masked_mentions", pa.large_binary()),
    ]
)
# Posts whose texts are in memory at once.
_POSTS_AT_ONCE = 2048
# Posts of a batch in the file: each batch that is open takes 3 KB.
_POSTS_WRITTEN = 2**14
# Posts read from the mapped file before its pages are given back.
_POSTS_RESIDENT = 50_000
# The system maps 64 KB around each page that is read, of offsets and of texts.
_POSTS_OF_A_FAULT = 700
# Posts whose hashes are sorted at once.
_POSTS_SORTED = 2**18
_PLACE_OF = {mbti_type: place for place, mbti_type in enumerate(TYPES)}


def describe_posts(posts: Sequence[str], options: DataConfig) -> pa.RecordBatch:
    """The columns of some posts, whose encoding has been repaired, as `data.mask` says."""
    described = [_describe(post, options) for post in posts]
    columns = zip(*described, strict=True) if described else [()] * len(_SCHEMA)
    arrays = [_build_array(f.type, c) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _build_array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """As `pa.array`, which imports pandas: 28 MB and 0.4 s in each process that prepares data."""
    if pa.types.is_integer(kind):
        numbers = np.array(values, kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(numbers)])
    parts = [value if isinstance(value, bytes) else value.encode() for value in values]
    offsets = pa.py_buffer(np.append(0, np.cumsum([*map(len, parts)], dtype=np.int64)))
    return pa.Array.from_buffers(kind, len(parts), [None, offsets, pa.py_buffer(b"".join(parts))])


def _describe(post: str, options: DataConfig) -> tuple[str, str, int, int, int, bytes, bytes]:
    clean = clean_text(post, is_repaired=True)
    masked = mask_text(clean, options.mask_also)
    # Now, while `mask` remembers what it found in it.
    mentions = _mentions_of(post), _mentions_of(masked)
    text = masked if options.mask else clean
    key = text_key(text)
    hashes = int(hash_parts("written", post), 16), int(hash_parts("post", key), 16)
    return post, text, *hashes, int(len(key) >= COPY_LETTERS), *mentions


def hash_parts(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _mentions_of(text: str) -> bytes:
    return bytes(_PLACE_OF[mbti_type] for mbti_type in type_mentions(text))


class PostStore:
    """The posts of a source, numbered from 0 (their places), in a nameless file of a folder.

    Its pages stay in the system's cache, but not for long in the memory of this process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(gettempdir())
        with storage_errors(self._folder):
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._writer = pa.ipc.new_file(self._file, _SCHEMA)
        self._unwritten: list[pa.RecordBatch] = []
        self._posts_resident = 0

    def append(self, batch: pa.RecordBatch) -> None:
        """Add posts at the end."""
        self._unwritten.append(batch)
        if sum(map(len, self._unwritten)) >= _POSTS_WRITTEN:
            self._write()

    def _write(self) -> None:
        if self._unwritten:
            with storage_errors(self._folder):
                self._writer.write_batch(pa.concat_batches(self._unwritten))
            self._unwritten.clear()

    def numbers(self, column: str, places: Indices) -> NDArray[Any]:
        """A column of numbers at some places, which are given ascending."""
        found = [np.zeros(0, _SCHEMA.field(column).type.to_pandas_dtype())]
        for k, (first, end) in enumerate(pairwise(np.searchsorted(places, self._starts).tolist())):
            if first < end:
                numbers = self._column(column, k).to_numpy()
                found.append(numbers[places[first:end] - self._starts[k]])
        return np.concatenate(found)

    def repeated(self, column: str) -> Iterator[tuple[Indices, NDArray[np.uint64]]]:
        """The places, ascending, of the numbers that a column has more than once, and these.

        Part by part, of which only one is in memory: equal numbers are in the same part.
        """
        parts = 1 + int(self._starts[-1]) // _POSTS_SORTED
        for part in range(parts):
            places, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
            for k, start in enumerate(self._starts[:-1]):
                values = self._column(column, k).to_numpy()
                own = np.flatnonzero(values % parts == part)
                places.append(own + start)
                numbers.append(values[own])
            found = np.concatenate(numbers)
            order = np.argsort(found)
            is_same = np.diff(found[order]) == 0
            is_repeated = np.append(is_same, False) | np.append(False, is_same)
            repeated = np.sort(order[is_repeated[: len(order)]])
            yield np.concatenate(places)[repeated], found[repeated]

    def read(self, column: str, places: Indices) -> Iterator[Any]:
        """The strings or bytes of a column at some places, in their order."""
        for start in range(0, len(places), _POSTS_AT_ONCE):
            part = places[start : start + _POSTS_AT_ONCE]
            batches = np.searchsorted(self._starts, part, side="right") - 1
            ends = np.flatnonzero((np.diff(part) != 1) | (np.diff(batches) != 0)) + 1
            for first, end in pairwise([0, *ends.tolist(), len(part)]):
                k = int(batches[first])
                values = self._column(column, k, count=end - first)
                yield from values.slice(part[first] - self._starts[k], end - first).to_pylist()

    def _column(self, name: str, batch: int, *, count: int | None = None) -> pa.Array:
        """A column of a batch, of which `count` posts (or all) will be read."""
        values = self._batches[batch].column(name)
        self._posts_resident += max(count or len(values), _POSTS_OF_A_FAULT)
        if self._posts_resident > _POSTS_RESIDENT:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._posts_resident = 0
        return values

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        self._write()
        with storage_errors(self._folder):
            self._writer.close()
            self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        return [reader.get_batch(k) for k in range(reader.num_record_batches)]

    @cached_property
    def _starts(self) -> Indices:
        """The place of the first post of each batch, and the end of the last."""
        return np.cumsum([0, *map(len, self._batches)])


@dataclass(frozen=True)
class StoredPosts:
    """The posts of each of N rows or examples: one or more ranges of places in a store.

    Attributes:
        first, count: Of each range: [K].
        offsets: The first range of each row or example, and the end of the last: [N + 1].
    """

    store: PostStore
    first: Indices
    count: Indices
    offsets: Indices

    @cached_property
    def totals(self) -> Indices:
        """Posts of each row or example: [N]."""
        return np.diff(np.append(0, np.cumsum(self.count))[self.offsets])

    def take(self, indices: Indices) -> "StoredPosts":
        """Those of some rows or examples."""
        ranges = self.offsets[indices + 1] - self.offsets[indices]
        taken = join_ranges(self.offsets[indices], ranges)
        offsets = np.append(0, np.cumsum(ranges))
        return StoredPosts(self.store, self.first[taken], self.count[taken], offsets)

    def places(self, indices: Indices) -> Indices:
        """The places of the posts of some rows or examples, one after the other."""
        taken = self.take(indices)
        return join_ranges(taken.first, taken.count)

    def batches(self, indices: Indices) -> Iterator[Indices]:
        """Rows or examples in parts of some thousand posts each."""
        ends = np.cumsum(self.totals[indices])
        start = 0
        while start < len(indices):
            done = ends[start - 1] if start else 0
            end = int(np.searchsorted(ends, done + _POSTS_AT_ONCE, side="right"))
            yield indices[start : max(end, start + 1)]
            start = max(end, start + 1)

    def read(self, column: str, indices: Indices) -> Iterator[tuple[Any, ...]]:
        """The posts of some rows or examples, as a column has them."""
        for part in self.batches(indices):
            posts = self.store.read(column, self.places(part))
            yield from (tuple(islice(posts, total)) for total in self.totals[part].tolist())

    def owners(self, places: Indices) -> Indices:
        """The row or example of the post at each place; -1 for none."""
        if not len(self.first):
            return np.full(len(places), -1)
        order = np.argsort(self.first)
        found = order[np.searchsorted(self.first, places, side="right", sorter=order) - 1]
        owner_of = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        inside = places - self.first[found]
        return np.where((inside >= 0) & (inside < self.count[found]), owner_of[found], -1)


def join_ranges(first: Indices, count: Indices) -> Indices:
    """The numbers of several ranges, one after the other."""
    ends = np.cumsum(count)
    numbers: Indices = np.arange(count.sum()) + np.repeat(first - ends + count, count)
    return numbers
