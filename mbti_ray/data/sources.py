"""Loading the rows of a source, all at once or as a stream, with the bad rows reported.

A row that cannot be used is reported with its number and reason, never dropped silently. Must not
know of masking, splits or tokens.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.columns import ColumnMap
from mbti_ray.data.posts import PostStore, StoredPosts, describe_posts
from mbti_ray.data.processes import MapBatches, map_in_process
from mbti_ray.data.readers import BUILTIN, Record, is_file_name, read_records
from mbti_ray.data.rows import BadRow, Row, parse_row
from mbti_ray.data.text import repaired_line
from mbti_ray.errors import DataError
from mbti_ray.storage.checksums import describe_file
from mbti_ray.typology import labels_of

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
    rows: list[Row]
    bad: list[BadRow]
    repaired: int
    merged: int = 0
    notes: list[str] = field(default_factory=list)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of labels, posts and authors in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            parts = [row.mbti_type, [*row.posts], row.author, *([row.shares] if row.shares else [])]
            digest.update(json.dumps(parts).encode() + b"\n")
        return digest.hexdigest()[:16]


def read_source(
    source: str,
    options: DataConfig = _DEFAULTS,
    *,
    labeled: bool = True,
    first: int | None = None,
    store: PostStore | None = None,
    map_batches: MapBatches = map_in_process,
) -> Source:
    """All rows of ``builtin``, a file, a saved dataset folder, or a hub dataset.

    Args:
        labeled: Whether each row needs a type; otherwise a missing or unknown one is None.
        first: Read only this many rows, good and bad ones together.
        store: Takes the posts; the rows then point at them there (see `store_rows`).
        map_batches: Parses batches of records; the result does not depend on how.

    Raises:
        DataError: The source does not exist, cannot be read, has no rows, lacks a column, or has
            a larger share of bad rows than `data.max_bad_share`.
    """
    if source == BUILTIN:
        rows = builtin_rows()[:first]
        if store is not None:
            rows = store_rows(rows, options, store)
        return Source(source, rows, [], 0)
    rows = []
    bad: list[BadRow] = []
    repaired = 0
    columns = ColumnMap(source, options)
    parse = partial(_parse_batch, options=options, labeled=labeled, is_stored=store is not None)
    batches = _batches(islice(read_records(columns), first))
    for good, wrong, mended, posts in map_batches(parse, batches):
        rows += good if store is None or posts is None else _attach(good, posts, store)
        bad += wrong
        repaired += mended
    if not rows and not bad:
        raise DataError(f"{source}: has no rows")
    columns.check(labeled=labeled)
    total, allowed = len(rows) + len(bad), options.max_bad_share
    if len(bad) > allowed * total:
        raise DataError(
            f"{source}: {len(bad)} of {total} rows are bad (data.max_bad_share allows "
            f"{allowed:g}); first: {source}:{bad[0].number}: {bad[0].reason}"
        )
    notes = [*columns.notes, *columns.unused_note()]
    if "type" in columns.roles.values():
        rows = _check_shares(rows, notes)
    elif halves := sum(share == 0.5 for row in rows for share in row.shares or ()):
        notes.append(f"{halves:,} shares of exactly 0.5 count as the pole I, S, F or P")
    return Source(source, rows, bad, repaired, notes=notes)


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
    records: Sequence[Record], *, options: DataConfig, labeled: bool, is_stored: bool
) -> tuple[list[Row], list[BadRow], int, pa.RecordBatch | None]:
    """The good and the bad rows, how many were repaired, and the posts apart if they are stored."""
    parsed = [_parse_record(n, cells, options, labeled=labeled) for n, cells in records]
    good = [row for row, _ in parsed if isinstance(row, Row)]
    bad = [row for row, _ in parsed if isinstance(row, BadRow)]
    posts = None
    if is_stored:
        good, posts = _detach(good, options)
    return good, bad, sum(was_repaired for _, was_repaired in parsed), posts


def store_rows(
    rows: Sequence[Row], options: DataConfig, store: PostStore | None = None
) -> list[Row]:
    """The rows with their posts in a store; as they are if these are in one."""
    if rows and isinstance(rows[0].posts, StoredPosts):
        return [*rows]
    return _attach(*_detach(rows, options), store or PostStore())


def _detach(rows: Sequence[Row], options: DataConfig) -> tuple[list[Row], pa.RecordBatch]:
    """The rows with the number of their posts in place of these, and the posts apart."""
    posts = describe_posts([post for row in rows for post in row.posts], options)
    return [replace(row, posts=range(len(row.posts))) for row in rows], posts  # type: ignore[arg-type]


def _attach(rows: Sequence[Row], posts: pa.RecordBatch, store: PostStore) -> list[Row]:
    ends = accumulate((len(row.posts) for row in rows), initial=store.append(posts))
    return [
        replace(row, posts=StoredPosts(store, [range(start, end)]))
        for row, (start, end) in zip(rows, pairwise(ends), strict=True)
    ]


def _check_shares(rows: list[Row], notes: list[str]) -> list[Row]:
    """The rows without their shares if these contradict the types, which are then the label."""
    pairs = [(row.shares, labels_of(row.mbti_type)) for row in rows if row.shares and row.mbti_type]
    against = sum(
        any((share - 0.5) * (label - 0.5) < 0 for share, label in zip(shares, labels, strict=True))
        for shares, labels in pairs
    )
    if not against:
        return rows
    line = f"the shares in E, N, T, J contradict the type in {against:,} of {len(pairs):,} rows"
    if against <= len(pairs) / 2:
        notes.append(f"{line}; the type is the label")
        return rows
    notes.append(f"{line} and are not used; if they are those of I, S, F, P: data.shares_of=ISFP")
    return [replace(row, shares=None) for row in rows]


def stream_rows(
    source: str,
    options: DataConfig = _DEFAULTS,
    *,
    labeled: bool = True,
    wanted: Callable[[int], bool] = lambda index: True,
) -> Iterator[tuple[int, Row | BadRow]]:
    """The rows of a source as a stream of (index from 0, row), without having all in memory.

    The rows of `read_source`, and the bad ones in their places, however many; errors when the
    stream reaches them. Where `wanted(index)` is False, the row is skipped unchecked.
    """
    if source == BUILTIN:
        yield from ((index, row) for index, row in enumerate(builtin_rows()) if wanted(index))
        return
    for index, (number, cells) in enumerate(read_records(ColumnMap(source, options))):
        if wanted(index):
            yield index, _parse_record(number, cells, options, labeled=labeled)[0]


def check_labeled(options: DataConfig) -> None:
    """Refuse (as `read_source`) a file that cannot be trained on or scored, by its first rows."""
    path = Path(options.source).expanduser()
    is_elsewhere = options.source == BUILTIN or "/" in options.source or path.is_dir()
    if path.is_file() or is_file_name(path) or not is_elsewhere:
        check_readable(options.source, options, labeled=True)


def check_readable(
    source: str, options: DataConfig = _DEFAULTS, *, labeled: bool = False
) -> list[str]:
    """Notes on how a source is read, by its first rows.

    Raises DataError if none of them can be used; or, where there are no others, too few.
    """
    lenient = options.model_copy(update={"max_bad_share": 1})
    head = read_source(source, lenient, labeled=labeled, first=_HEAD_ROWS)
    if labeled and len(head.rows) + len(head.bad) < _HEAD_ROWS:
        head = read_source(source, options)
    if not head.rows:
        raise DataError(
            f"{source}: none of its first {len(head.bad)} rows can be used; first: "
            f"{source}:{head.bad[0].number}: {head.bad[0].reason}"
        )
    return head.notes


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
    is_saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if options.source == BUILTIN or path.is_file() or is_saved:
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
        return {"bytes": 0, "sha256": read_source(source).fingerprint}
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
