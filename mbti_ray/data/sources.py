"""Loading the rows of a source, all at once or as a stream, with the bad rows reported.

Owns what happens to a row that cannot be used: it is reported with its number and reason, never
dropped silently. `readers` yields the records, `rows` parses their cells. Must not know of masking,
splits or tokens.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.readers import BUILTIN, check_columns, parquet_rows, read_records, repaired_line
from mbti_ray.data.rows import BadRow, Row, parse_row
from mbti_ray.errors import DataError

__all__ = ["BUILTIN", "BadRow", "Row", "Source", "read_source", "stream_rows"]

# The first rows, by which a source is checked before work starts.
_HEAD_ROWS = 1024
# Larger files are not read an additional time to count their rows.
_MAX_BYTES_COUNTED = 2**28


@dataclass(frozen=True)
class Source:
    """All rows of a source, in its order.

    Attributes:
        name: As the user gave it.
        rows: The rows that can be used.
        bad: The rows that cannot, at most ``max_bad_share`` of all.
        repaired: Number of ``rows`` whose encoding was repaired.
    """

    name: str
    rows: list[Row]
    bad: list[BadRow]
    repaired: int

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of types, posts and authors in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.mbti_type, row.posts, row.author]).encode() + b"\n")
        return digest.hexdigest()[:16]


def read_source(
    source: str,
    *,
    max_bad_share: float = 0.01,
    labelled: bool = True,
    first: int | None = None,
) -> Source:
    """All rows of ``builtin``, a file, a saved dataset folder, or a hub dataset.

    Args:
        labelled: Whether each row needs a type; otherwise a missing or unknown one is None.
        first: Read only this many rows, good and bad ones together.

    Raises:
        DataError: The source does not exist, cannot be read, has no rows, lacks a column, or has
            a larger share of bad rows than ``max_bad_share``.
    """
    if source == BUILTIN:
        return Source(source, builtin_rows()[:first], [], 0)
    rows: list[Row] = []
    bad: list[BadRow] = []
    repaired = 0
    columns: set[str] = set()
    for number, cells in islice(read_records(source), first):
        if isinstance(cells, dict):
            columns |= cells.keys()
        row, was_repaired = _parse_record(number, cells, labelled=labelled)
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            rows.append(row)
            repaired += was_repaired
    if not rows and not bad:
        raise DataError(f"{source}: has no rows")
    if columns:
        check_columns(source, sorted(columns), labelled=labelled)
    _check_bad_share(source, bad, len(rows) + len(bad), max_bad_share)
    return Source(source, rows, bad, repaired)


def stream_rows(
    source: str, *, labelled: bool = True, wanted: Callable[[int], bool] = lambda index: True
) -> Iterator[tuple[int, Row | BadRow]]:
    """The rows of a source as a stream of (index from 0, row), without having all in memory.

    Yields the same rows as `read_source`, and the bad ones in their places, however many.

    Args:
        wanted: Called with a row's index; where it returns False, the row is skipped unchecked.

    Raises:
        DataError: As `read_source`, but when the stream reaches the place.
    """
    if source == BUILTIN:
        yield from ((index, row) for index, row in enumerate(builtin_rows()) if wanted(index))
        return
    for index, (number, cells) in enumerate(read_records(source)):
        if wanted(index):
            yield index, _parse_record(number, cells, labelled=labelled)[0]


def check_readable(source: str) -> None:
    """Raise DataError if none of a source's first rows can be used, with or without labels."""
    head = read_source(source, max_bad_share=1, labelled=False, first=_HEAD_ROWS)
    if not head.rows:
        raise DataError(
            f"{source}: none of its first {len(head.bad)} rows can be used; first: "
            f"{source}:{head.bad[0].number}: {head.bad[0].reason}"
        )


def count_rows(source: str) -> int | None:
    """Number of rows of a source, bad ones included; None if counting would take long."""
    if source == BUILTIN:
        return len(builtin_rows())
    path = Path(source).expanduser()
    if path.suffix.lower() == ".parquet" and path.is_file():
        return parquet_rows(source, path)
    if path.is_file() and path.stat().st_size <= _MAX_BYTES_COUNTED:
        return sum(1 for _ in read_records(source))
    return None


def fingerprint_of(source: str) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, or of all files of a saved dataset.

    Raises:
        DataError: It is a hub dataset, whose contents may change, or cannot be read.
    """
    path = Path(source).expanduser()
    if source == BUILTIN:
        return {"bytes": 0, "sha256": read_source(source).fingerprint}
    if not path.exists():
        raise DataError(
            f"{source}: may change between runs; allowed here: a file, a saved dataset folder"
        )
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as lines:
                digest.update(hashlib.file_digest(lines, "sha256").digest())
        size = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or repaired_line(error)}") from error
    return {"bytes": size, "sha256": digest.hexdigest()}


def _parse_record(
    number: int, cells: dict[str, Any] | str, *, labelled: bool
) -> tuple[Row | BadRow, bool]:
    """The row of a record, or what is wrong with it; and whether its encoding was repaired."""
    if isinstance(cells, str):
        return BadRow(number, repaired_line(cells)), False
    try:
        return parse_row(number, cells, labelled=labelled)
    except DataError as error:
        return BadRow(number, repaired_line(error)), False


def _check_bad_share(source: str, bad: list[BadRow], total: int, allowed: float) -> None:
    if len(bad) > allowed * total:
        raise DataError(
            f"{source}: {len(bad)} of {total} rows are bad (data.max_bad_share allows "
            f"{allowed:g}); first: {source}:{bad[0].number}: {bad[0].reason}"
        )
