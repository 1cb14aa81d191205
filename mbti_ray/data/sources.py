"""Loading the rows of a source, all at once or as a stream, with the bad rows reported.

A row that cannot be used is reported with its number and reason, never dropped silently. Must not
know of masking, splits or tokens.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.columns import ColumnMap
from mbti_ray.data.posts import PostStore
from mbti_ray.data.processes import MapBatches, map_in_process
from mbti_ray.data.readers import BUILTIN, Record, is_on_hub, is_saved_dataset, read_records
from mbti_ray.data.rows import BadRow, Row, parse_row
from mbti_ray.data.stored_rows import DetachedRows, RowWriter, StoredRows, detach_posts, store_rows
from mbti_ray.data.text import repaired_line
from mbti_ray.errors import DataError, counted
from mbti_ray.storage.checksums import describe_file

# The first rows, by which a source is checked before work starts.
_HEAD_ROWS = 1024
_DEFAULTS = DataConfig()
# What is parsed at once, and what a record counts for besides its text.
_BATCH_CHARS = 2**18
_RECORD_CHARS = 64
# Larger files are not read an additional time to count their rows.
_MAX_BYTES_COUNTED = 2**28


@dataclass(frozen=True)
class Source:
    """All rows of a source, in its order.

    Attributes:
        name: As the user gave it.
        rows, bad: The rows that can be used, and those that cannot.
        repaired: Number of ``rows`` whose encoding was repaired.
        merged: Rows that became a part of another row, or were left out with their author.
        notes: What a user should know of how it was read.
    """

    name: str
    rows: StoredRows
    bad: list[BadRow]
    repaired: int
    merged: int = 0
    notes: list[str] = field(default_factory=list)

    @cached_property
    def fingerprint(self) -> str:
        return hash_rows(self.rows)


def hash_rows(rows: Iterable[Row]) -> str:
    """First 16 hex digits of the SHA-256 of labels, posts and authors in order."""
    digest = hashlib.sha256()
    for row in rows:
        parts = [row.mbti_type, row.posts, row.author, *([row.shares] if row.shares else [])]
        digest.update(json.dumps(parts).encode() + b"\n")
    return digest.hexdigest()[:16]


def read_source(
    source: str,
    options: DataConfig = _DEFAULTS,
    *,
    store: PostStore | None = None,
    map_batches: MapBatches = map_in_process,
) -> Source:
    """All labeled rows of ``builtin``, a file, a saved dataset folder, or a hub dataset.

    Shares that contradict the types are left out.

    Args:
        store: Takes the posts.
        map_batches: Parses batches of records; the result does not depend on how.

    Raises:
        DataError: The source does not exist, cannot be read, has no rows, lacks a column, or has
            a larger share of bad rows than `data.max_bad_share`.
    """
    store = store or PostStore()
    if source == BUILTIN:
        return Source(source, store_rows(builtin_rows(), options, store), [], 0)
    writer = RowWriter(store)
    bad: list[BadRow] = []
    repaired = 0
    columns = ColumnMap(source, options)
    batches = _batches(read_records(columns))
    for good, wrong, mended in map_batches(partial(_parse_batch, options=options), batches):
        writer.add(good)
        bad += wrong
        repaired += mended
    rows = writer.rows()
    _check_rows(columns, len(rows) + len(bad), bad, options.max_bad_share, labeled=True)
    notes = [*columns.notes, *columns.unused_note()]
    rows = _check_shares(rows, notes, has_types="type" in columns.roles.values())
    return Source(source, rows, bad, repaired, notes=notes)


def _check_rows(
    columns: ColumnMap, count: int, bad: Sequence[BadRow], allowed: float, *, labeled: bool
) -> None:
    source = columns.source
    if not count:
        raise DataError(f"{source}: has no rows")
    columns.check(labeled=labeled)
    if len(bad) > allowed * count:
        raise DataError(
            f"{source}: {len(bad)} of {count} rows are bad (data.max_bad_share allows "
            f"{allowed:g}); first: {source}:{bad[0].number}: {bad[0].reason}"
        )


def _check_shares(rows: StoredRows, notes: list[str], *, has_types: bool) -> StoredRows:
    """The rows without their shares if these contradict the types, which are then the label."""
    is_given = ~np.isnan(rows.shares).all(1)
    shares, labels = rows.shares[is_given], rows.labels[is_given]
    halves = int(np.count_nonzero(shares == 0.5))
    if halves and not has_types:
        notes.append(f"{counted(halves, 'share')} of exactly 0.5 taken as the pole I, S, F or P")
    against = np.count_nonzero(((shares - 0.5) * (labels - 0.5) < 0).any(1))
    line = f"the shares in E, N, T, J contradict the type in {against:,} of {len(labels):,} rows"
    if against > len(labels) / 2:
        line += " and are not used; if they are those of I, S, F, P: data.shares_of=ISFP"
        rows = replace(rows, shares=np.full_like(rows.shares, np.nan))
        notes.append(line)
    elif against:
        notes.append(f"{line}; the type is the label")
    return rows


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Records in batches of some hundred thousand characters."""
    batch: list[Record] = []
    size = 0
    for number, cells in records:
        batch.append((number, cells))
        text = cells if isinstance(cells, str) else cells.get("text")
        size += _RECORD_CHARS + (len(text) if isinstance(text, str) else len(str(text)))
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse_batch(
    records: Sequence[Record], options: DataConfig
) -> tuple[DetachedRows, list[BadRow], int]:
    """The good and the bad rows, and how many were repaired."""
    parsed = [_parse_record(n, cells, options, labeled=True) for n, cells in records]
    good = [row for row, _ in parsed if isinstance(row, Row)]
    bad = [row for row, _ in parsed if isinstance(row, BadRow)]
    return detach_posts(good, options), bad, sum(was_repaired for _, was_repaired in parsed)


def stream_rows(
    source: str,
    options: DataConfig = _DEFAULTS,
    *,
    labeled: bool = True,
    wanted: Callable[[int], bool] = lambda index: True,
) -> Iterator[tuple[int, Row | BadRow]]:
    """The rows of a source as a stream of (index from 0, row), without having all in memory.

    As of `read_source`, with the bad ones in their places, however many; errors when the stream
    reaches them. Without `labeled`, a missing or unknown type is None. Where `wanted(index)` is
    False, the row is skipped unchecked.
    """
    if source == BUILTIN:
        yield from ((index, row) for index, row in enumerate(builtin_rows()) if wanted(index))
        return
    for index, (number, cells) in enumerate(read_records(ColumnMap(source, options))):
        if wanted(index):
            yield index, _parse_record(number, cells, options, labeled=labeled)[0]


def check_labeled(options: DataConfig) -> None:
    """Refuse (as `read_source`) a file that cannot be trained on or scored, by its first rows."""
    source = options.source
    # These would take long.
    is_elsewhere = is_on_hub(source) or is_saved_dataset(Path(source).expanduser())
    if source != BUILTIN and not is_elsewhere:
        check_readable(source, options, labeled=True)


def check_readable(
    source: str, options: DataConfig = _DEFAULTS, *, labeled: bool = False
) -> list[str]:
    """Notes on how a source is read, by its first rows.

    Raises DataError if none of them can be used; or, where there are no others, too few.
    """
    if source == BUILTIN:
        return []
    columns = ColumnMap(source, options)
    records = islice(read_records(columns), _HEAD_ROWS)
    head = [_parse_record(n, cells, options, labeled=labeled)[0] for n, cells in records]
    bad = [row for row in head if isinstance(row, BadRow)]
    is_whole = labeled and len(head) < _HEAD_ROWS
    _check_rows(columns, len(head), bad, options.max_bad_share if is_whole else 1, labeled=labeled)
    if len(bad) == len(head):
        raise DataError(
            f"{source}: none of its first {len(bad)} rows can be used; first: "
            f"{source}:{bad[0].number}: {bad[0].reason}"
        )
    return [*columns.notes, *columns.unused_note()]


def count_rows(source: str, options: DataConfig = _DEFAULTS) -> int | None:
    """Number of rows of a source, bad ones included; None if counting would take long."""
    if source == BUILTIN:
        return len(builtin_rows())
    path = Path(source).expanduser()
    if path.is_file() and path.stat().st_size <= _MAX_BYTES_COUNTED:
        return sum(1 for _ in read_records(ColumnMap(source, options)))
    return None


def content_hash(options: DataConfig) -> str:
    """A hash of what is in `data.source`, and of how the name of a file says it is to be read."""
    path = Path(options.source).expanduser()
    if options.source == BUILTIN or path.is_file() or is_saved_dataset(path):
        found: str = fingerprint_of(options.source)["sha256"]
        return "".join([*path.suffixes[-2:], ":", found]).lower()
    digest = hashlib.sha256()
    for record in read_records(ColumnMap(options.source, options)):
        digest.update(repr(record).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def fingerprint_of(source: str) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, or of all files of a saved dataset.

    Raises DataError for a hub dataset, whose contents may change, or what cannot be read.
    """
    path = Path(source).expanduser()
    if source == BUILTIN:
        return {"bytes": 0, "sha256": hash_rows(builtin_rows())}
    if not path.exists():
        raise DataError(
            f"{source}: may change between runs; allowed here: a file, a saved dataset folder"
        )
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        records = [describe_file(file) for file in files]
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or repaired_line(error)}") from error
    digest = hashlib.sha256(b"".join(bytes.fromhex(record.sha256) for record in records))
    return {"bytes": sum(record.bytes for record in records), "sha256": digest.hexdigest()}


def _parse_record(
    number: int, cells: dict[str, Any] | str, options: DataConfig, *, labeled: bool
) -> tuple[Row | BadRow, bool]:
    """The row of a record, or what is wrong with it; and whether its encoding was repaired."""
    if isinstance(cells, str):
        return BadRow(number, repaired_line(cells)), False
    try:
        return parse_row(number, cells, labeled=labeled, is_inverted=options.shares_of == "ISFP")
    except DataError as error:
        return BadRow(number, repaired_line(error)), False
