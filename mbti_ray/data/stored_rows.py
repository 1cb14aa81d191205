"""The rows of a labeled source as columns of numbers, with their posts in a store.

This is the index that grows with a source: no Python object for a row or a post. Must not know of
users, splits or tokens.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.posts import PostStore, StoredPosts, describe_posts
from mbti_ray.data.rows import Row, Shares
from mbti_ray.data.split import Indices
from mbti_ray.typology import TYPES, labels_of

_LABELS = np.array([labels_of(mbti_type) for mbti_type in TYPES], np.uint8)
_TYPE_INDEX = {mbti_type: index for index, mbti_type in enumerate(TYPES)}
_NO_SHARES = (float("nan"),) * 4


@dataclass(frozen=True, eq=False)
class StoredRows(Sequence[Row]):
    """R rows; as a sequence, each is put together when it is asked for.

    Attributes:
        posts: Those of each row.
        number: As `Row.number`: int64 [R].
        types: The type of each, an index in `TYPES`: int8 [R].
        author: An index in `authors`, -1 where none is named: int32 [R].
        authors: In the order of their first rows.
        shares: As `Row.shares`, NaN where there is none: float64 [R, 4].
    """

    posts: StoredPosts
    number: Indices
    types: NDArray[np.int8]
    author: NDArray[np.int32]
    authors: Sequence[str]
    shares: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.number)

    def __iter__(self) -> Iterator[Row]:
        return self._read(np.arange(len(self)))

    def __getitem__(self, index: Any) -> Any:
        rows = [*self._read(np.atleast_1d(np.arange(len(self))[index]))]
        return rows if isinstance(index, slice) else rows[0]

    def _read(self, indices: Indices) -> Iterator[Row]:
        for i, posts in zip(indices.tolist(), self.posts.read("post", indices), strict=True):
            author = self.authors[self.author[i]] if self.author[i] >= 0 else None
            mbti_type = TYPES[self.types[i]]
            yield Row(int(self.number[i]), mbti_type, posts, author, shares=self.shares_of(i))

    def shares_of(self, index: int) -> Shares | None:
        """`Row.shares` of a row."""
        e, n, t, j = self.shares[index].tolist()
        return None if all(map(math.isnan, (e, n, t, j))) else (e, n, t, j)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """0/1 labels in the order E, N, T, J: [R, 4]."""
        return _LABELS[self.types]

    @property
    def person_kind(self) -> str:
        """What counts as one person: author if any row names one, else user."""
        return "author" if (self.author >= 0).any() else "user"

    def take(self, indices: Indices) -> "StoredRows":
        """Some of the rows."""
        return replace(
            self,
            posts=self.posts.take(indices),
            **{n: getattr(self, n)[indices] for n in ("number", "types", "author", "shares")},
        )


# Rows without their posts, how many these are, and what is stored of them.
DetachedRows = tuple[list[Row], list[int], pa.RecordBatch]


def detach_posts(rows: Sequence[Row], options: DataConfig) -> DetachedRows:
    posts = describe_posts([post for row in rows for post in row.posts], options)
    return [replace(row, posts=()) for row in rows], [len(row.posts) for row in rows], posts


class RowWriter:
    """Adds rows to a store, and to the columns of `StoredRows`."""

    def __init__(self, store: PostStore) -> None:
        self._store = store
        self._number, self._counts = array("q"), array("q")
        self._types, self._author, self._shares = array("b"), array("i"), array("d")
        self._author_index: dict[str, int] = {}

    def add(self, batch: DetachedRows) -> None:
        rows, counts, posts = batch
        self._store.append(posts)
        self._counts.extend(counts)
        index = self._author_index
        for row in rows:
            self._number.append(row.number)
            self._types.append(_TYPE_INDEX[row.mbti_type or ""])
            self._author.append(index.setdefault(row.author, len(index)) if row.author else -1)
            self._shares.extend(row.shares or _NO_SHARES)

    def rows(self) -> StoredRows:
        """All rows that were added."""
        count = np.array(self._counts)
        first = np.cumsum(count) - count
        return StoredRows(
            posts=StoredPosts(self._store, first, count, np.arange(len(count) + 1)),
            number=np.array(self._number),
            types=np.array(self._types),
            author=np.array(self._author),
            authors=[*self._author_index],
            shares=np.array(self._shares).reshape(-1, 4),
        )


def store_rows(
    rows: Sequence[Row], options: DataConfig, store: PostStore | None = None
) -> StoredRows:
    """The rows with their posts in a store."""
    writer = RowWriter(store or PostStore())
    writer.add(detach_posts(rows, options))
    return writer.rows()
