"""Chunks of a source: the rows that are predicted together, for file prediction.

A chunk depends on the source and the plan alone, so a job that was killed and resumed gives the
same digits as one that was not. Must not know of models, of Ray, or of where predictions go.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.rows import BadRow, Row
from mbti_ray.data.sources import stream_rows
from mbti_ray.data.users import join_stream

# Large chunks need less padding (tweets: 5 % at 128 Ki characters, 8 % at 32 Ki, 2 % for 8,192 rows
# at once), but rows are written only when their whole chunk is done.
_CHUNK_CHARS = 2**17
_MIN_CHUNK_CHARS = 2**15
# At least this many chunks for each file, unless they would become too small.
_CHUNKS = 16
# Text is compressed to a third or a quarter.
_COMPRESSION = 3
# The overhead of a row or post, in characters.
_ROW_CHARS = 16


@dataclass(frozen=True)
class ChunkPlan:
    """How a source is divided into chunks.

    Attributes:
        unit: `user` or `post`: what the bundle reads as one row.
        chunk_chars: A chunk ends at this many characters; see `choose_chunk_chars`.
        part_rows: Rows of the source in each part of the output; no chunk spans two parts.
        done: Parts that are skipped, because an earlier run wrote them.
        joined: Authors whose rows are predicted together, with the number of their rows.
    """

    source: str
    unit: str
    chunk_chars: int
    options: DataConfig = field(default_factory=DataConfig)
    part_rows: int = 2**62
    done: frozenset[int] = frozenset()
    joined: Mapping[str, int] = field(default_factory=dict)

    @property
    def expected_chunks(self) -> int | None:
        """About how many chunks there will be; None if that is unknown."""
        return -(-_text_bytes(self.source) // self.chunk_chars) or None

    def part_of(self, place: int) -> int:
        return place // self.part_rows


def choose_chunk_chars(source: str) -> int:
    """Characters of a chunk: large for little padding, but several chunks for a small file."""
    return max(_MIN_CHUNK_CHARS, min(_CHUNK_CHARS, _text_bytes(source) // _CHUNKS))


@dataclass
class Chunk:
    """Rows of a source as the bundle reads them: one for each user, or one for each post.

    Attributes:
        place: Index of its first row in the source.
        records: Number of rows of the source, and of characters in them.
        rows: Number, post (as `Example.post`), id and posts of each.
        bad: Number and reason of those that cannot be read.
    """

    place: int
    records: int = 0
    chars: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Row | BadRow | None, *, unit: str) -> None:
        """Adds what a row of the source became; None if it belongs to one that comes later."""
        self.records += 1
        self.chars += _ROW_CHARS
        if isinstance(row, BadRow):
            self.bad.append({"number": row.number, "reason": row.reason})
        elif row is not None:
            self.chars += sum(len(post) + _ROW_CHARS for post in row.posts)
            whole = unit == "user"
            for k, posts in enumerate([row.posts] if whole else [(post,) for post in row.posts]):
                self.rows.append(
                    {"number": row.number, "post": -1 if whole else k, "id": row.id, "posts": posts}
                )


def read_chunks(plan: ChunkPlan) -> Iterator[Chunk]:
    """The chunks of a source that are not done."""
    chunk: Chunk | None = None

    def is_wanted(place: int) -> bool:
        return plan.part_of(place) not in plan.done

    entries = stream_rows(
        plan.source,
        plan.options,
        labeled=False,
        # An author's rows may lie in several parts.
        wanted=(lambda _: True) if plan.joined else is_wanted,
    )
    for place, row in join_stream(plan.source, entries, plan.joined):
        if not is_wanted(place):
            continue
        if chunk and (
            plan.part_of(place) != plan.part_of(chunk.place) or chunk.chars >= plan.chunk_chars
        ):
            yield chunk
            chunk = None
        chunk = chunk or Chunk(place)
        chunk.add(row, unit=plan.unit)
    if chunk:
        yield chunk


def _text_bytes(source: str) -> int:
    """About how many bytes of text a file has; 0 if that is unknown."""
    path = Path(source).expanduser()
    if not path.is_file():
        return 0
    is_compressed = path.suffix.lower() in (".parquet", ".gz", ".zip")
    return path.stat().st_size * (_COMPRESSION if is_compressed else 1)
