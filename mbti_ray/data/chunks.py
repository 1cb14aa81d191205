"""A source in chunks: the rows that are predicted at once, sorted by their length.

A chunk is a function of the source and the plan alone. So a text is read in the same company in
every run, and one that was killed and gone on with gives the digits of one that was not. Knows
nothing of models, of Ray, or of where predictions go.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mbti_ray.data.rows import BadRow, Row
from mbti_ray.data.sources import stream_rows

ROW_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("post", pa.int32()),
        ("id", pa.string()),
        ("posts", pa.list_(pa.string())),
    ]
)
# Tweets in chunks of 128 Ki characters have 5 % padding, of 32 Ki 8 %, 8,192 at once 2 %; but only
# when a chunk is done are its rows.
_CHUNK_CHARS = 2**17
_LEAST_CHUNK_CHARS = 2**15
# So many chunks of a file at least, where they do not get too small by it.
_CHUNKS = 16
# Text in Parquet is compressed, to a third or a quarter.
_PARQUET_SHRINKS = 3
# What a row or post costs besides its characters.
_ROW_CHARS = 16


@dataclass(frozen=True)
class ChunkPlan:
    """How a source is cut.

    Attributes:
        source: As `stream_rows` takes it.
        unit: `user` or `post`: what a bundle reads at once.
        chunk_chars: See `choose_chunk_chars`.
        part_rows: Rows of the source in each part; no chunk lies in two.
        done: Parts that are passed over.
    """

    source: str
    unit: str
    chunk_chars: int
    part_rows: int = 2**62
    done: frozenset[int] = frozenset()

    @property
    def expected_chunks(self) -> int | None:
        """About so many there will be; None where nobody knows."""
        return -(-_text_bytes(self.source) // self.chunk_chars) or None

    def part_of(self, place: int) -> int:
        return place // self.part_rows


def choose_chunk_chars(source: str) -> int:
    """Characters in a chunk: large for little padding, but several chunks of a small file."""
    return max(_LEAST_CHUNK_CHARS, min(_CHUNK_CHARS, _text_bytes(source) // _CHUNKS))


def read_chunks(plan: ChunkPlan) -> Iterator[pa.Table]:
    """Tables of one row, which is a chunk.

    Their columns are `place` (of its first row in the source, from 0), `records` (rows of the
    source), `bad` (those that cannot be read, as JSON) and `rows` (the others, as `ROW_SCHEMA`).
    """
    chunk = _Chunk(plan.unit)
    entries = stream_rows(
        plan.source, labelled=False, wanted=lambda place: plan.part_of(place) not in plan.done
    )
    for place, row in entries:
        is_over = plan.part_of(place) != plan.part_of(chunk.place)
        if chunk.records and (is_over or chunk.chars >= plan.chunk_chars):
            yield chunk.table()
            chunk = _Chunk(plan.unit)
        chunk.add(place, row)
    if chunk.records:
        yield chunk.table()


class _Chunk:
    """Rows as a bundle reads them: a line for each user, or for each post."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._rows: list[dict[str, Any]] = []
        self._bad: list[dict[str, Any]] = []
        self.place = 0
        self.records = 0
        self.chars = 0

    def add(self, place: int, row: Row | BadRow) -> None:
        if not self.records:
            self.place = place
        self.records += 1
        self.chars += _ROW_CHARS
        if isinstance(row, BadRow):
            self._bad.append({"number": row.number, "reason": row.reason})
            return
        self.chars += sum(len(post) + _ROW_CHARS for post in row.posts)
        whole = self._unit == "user"
        for k, posts in enumerate([row.posts] if whole else [(post,) for post in row.posts]):
            self._rows.append(
                {"number": row.number, "post": -1 if whole else k, "id": row.id, "posts": posts}
            )

    def table(self) -> pa.Table:
        return pa.table(
            {
                "place": pa.array([self.place], pa.int64()),
                "records": pa.array([self.records], pa.int64()),
                "bad": pa.array([json.dumps(self._bad)], pa.string()),
                "rows": nest_table(pa.Table.from_pylist(self._rows, schema=ROW_SCHEMA)),
            }
        )


def nest_table(table: pa.Table) -> pa.Array:
    """A table as a column of one row."""
    rows = table.to_struct_array().combine_chunks()
    return pa.ListArray.from_arrays(pa.array([0, len(table)], pa.int32()), rows)


def unnest_table(column: pa.ChunkedArray) -> pa.Table:
    """The table that `nest_table` has made a column of."""
    return pa.Table.from_struct_array(column.combine_chunks().flatten())


def _text_bytes(source: str) -> int:
    """About how much text is in a file; 0 where nobody knows."""
    path = Path(source).expanduser()
    if not path.is_file():
        return 0
    return path.stat().st_size * (_PARQUET_SHRINKS if path.suffix.lower() == ".parquet" else 1)
