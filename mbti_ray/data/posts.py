"""The posts of a source as Arrow columns: as written, as the model reads them, and by what they
are compared.

Owns where they are, in a mapped temporary file: rows point at them, so that what grows with a
source is an index. Must not know of labels, splits or tokens.
"""

import hashlib
import mmap
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
# Posts read from a mapped file before its pages are given back.
_POSTS_RESIDENT = 50_000
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
    """The posts of a source, numbered from 0 (their places), in a nameless file of a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(gettempdir())
        with storage_errors(self._folder):
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._writer = pa.ipc.new_file(self._file, _SCHEMA)
        self._map: mmap.mmap | None = None
        self._batches: list[pa.RecordBatch] = []
        self._starts = [0]
        self._read = 0

    def append(self, batch: pa.RecordBatch) -> int:
        """Add posts; returns the place of the first."""
        with storage_errors(self._folder):
            self._writer.write_batch(batch)
        self._starts.append(self._starts[-1] + batch.num_rows)
        return self._starts[-2]

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers, or of the lengths of mentions: [P]."""
        columns = [batch.column(column) for batch in self._opened()]
        if column.endswith("mentions"):
            columns = [pc.binary_length(each) for each in columns]
        found = np.concatenate([np.zeros(0, np.uint8), *(each.to_numpy() for each in columns)])
        self._release()
        return found

    def read(self, column: str, places: Indices) -> list[Any]:
        """The strings or bytes of a column at some places."""
        if not len(places):
            return []
        batches = self._opened()
        inside = np.searchsorted(self._bounds, places, side="right") - 1
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
        if self._map is None:
            with storage_errors(self._folder):
                self._writer.close()
                self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._bounds = np.array(self._starts)
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
    def places(self) -> Indices:
        return np.concatenate([np.arange(r.start, r.stop) for r in self.ranges])

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.read("post", self.places))

    def __getitem__(self, place: Any) -> Any:
        return [*self][place]


def join_posts(parts: Iterable[Sequence[str]]) -> Sequence[str]:
    """The posts of several rows as those of one."""
    parts = [*parts]
    if isinstance(parts[0], StoredPosts):
        ranges = [r for part in parts if isinstance(part, StoredPosts) for r in part.ranges]
        return StoredPosts(parts[0].store, ranges)
    return tuple(chain.from_iterable(parts))
