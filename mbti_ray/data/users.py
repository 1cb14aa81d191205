"""Who wrote which rows: authors that are none, authors with several types, rows joined to users.

Owns which rows make a user. Must not know of splits or of what the model reads.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.columns import ColumnMap
from mbti_ray.data.posts import PostStore
from mbti_ray.data.processes import MapBatches, map_in_process
from mbti_ray.data.readers import BUILTIN, read_records
from mbti_ray.data.rows import BadRow, Row
from mbti_ray.data.sources import Source, read_source, stream_rows
from mbti_ray.data.stored_rows import StoredRows
from mbti_ray.data.text import repaired_line
from mbti_ray.errors import DataError, counted
from mbti_ray.typology import TYPES

# What exports write where there is no author, or one that nobody knows.
_PLACEHOLDERS = frozenset(
    (
        *("[deleted]", "[removed]", "deleted", "anonymous", "unknown", "null", "none", "-"),
        # Of pandas, R and spreadsheets.
        *("nan", "na", "n/a", "<na>", "#n/a"),
    )
)
# In the place of an author's type.
_KEEP, _LEAVE_OUT = -1, -2
_HEADED = {".csv", ".tsv", ".parquet"}
# Python takes one to four bytes for each.
_MAX_KEPT_CHARACTERS = 10**9


def load_users(
    options: DataConfig, *, store: PostStore | None = None, map_batches: MapBatches = map_in_process
) -> Source:
    """The labeled rows of `data.source` in a store: one for each user, or as the source has them.

    Raises:
        DataError: As `read_source`, or authors have more than one type (all that there are).
    """
    store = store or PostStore()
    source = read_source(options.source, options, store=store, map_batches=map_batches)
    notes = [*source.notes]
    rows = _without_placeholders(source.rows, notes)
    rows = _with_one_type(source.name, rows, options, notes)
    if not len(rows):
        raise DataError(f"{source.name}: no rows are left; {notes[-1]}")
    if options.unit == "user":
        rows = _joined(rows, options, notes)
    merged = len(source.rows) - len(rows)
    return replace(source, rows=rows, merged=merged, notes=notes)


def count_joined(source: str, options: DataConfig, *, unit: str) -> dict[str, int]:
    """For prediction: how many rows each author has whose rows `load_users` would join.

    Reads the source once, keeping no more than the names of the authors.
    """
    if unit != "user" or options.join_rows == "never" or source == BUILTIN:
        return {}
    columns = ColumnMap(source, options)
    next(read_records(columns), None)
    # Later records of JSON may have keys that the first one has not.
    if "author" not in columns.roles.values() and _HEADED & {*Path(source.lower()).suffixes}:
        return {}
    rows: Counter[str] = Counter()
    with_one_post = set()
    for _, row in stream_rows(source, options, labeled=False):
        if isinstance(row, Row) and row.author and row.author.lower() not in _PLACEHOLDERS:
            rows[row.author] += 1
            if len(row.posts) == 1:
                with_one_post.add(row.author)
    several = {author: count for author, count in rows.items() if count > 1}
    has_users = several.keys().isdisjoint(with_one_post)
    return {} if options.join_rows == "auto" and has_users else several


def join_stream(
    source: str, rows: Iterable[tuple[int, Row | BadRow]], joined: Mapping[str, int]
) -> Iterator[tuple[int, Row | BadRow | None]]:
    """The rows of a stream, with one for each author of `joined` in the place of its last row.

    None stands where an author has more rows to come; their texts are kept until then.

    Raises:
        DataError: That would be more text than fits into the memory of a usual machine.
    """
    left = dict(joined)
    kept: dict[str, list[Row]] = {}
    characters = 0
    for index, row in rows:
        if not isinstance(row, Row) or row.author not in left:
            yield index, row
            continue
        left[row.author] -= 1
        kept.setdefault(row.author, []).append(row)
        characters += sum(map(len, row.posts))
        if characters > _MAX_KEPT_CHARACTERS:
            raise DataError(
                f"{source}: rows of one author lie so far apart that more than "
                f"{_MAX_KEPT_CHARACTERS / 1e9:g} GB of text would be kept in memory to join them; "
                "sort it by author, or set data.join_rows=never"
            )
        if left[row.author]:
            yield index, None
        else:
            own = _join(kept.pop(row.author))
            characters -= sum(map(len, own.posts))
            yield index, own


def _without_placeholders(rows: StoredRows, notes: list[str]) -> StoredRows:
    counts = np.bincount(rows.author[rows.author >= 0], minlength=len(rows.authors))
    is_none = np.array([name.lower() in _PLACEHOLDERS for name in rows.authors], bool)
    named = Counter({rows.authors[k]: counts[k] for k in np.flatnonzero(is_none).tolist()})
    if not named:
        return rows
    kinds = ", ".join(f'"{name}" {count:,}' for name, count in named.most_common(5))
    notes.append(f"rows of authors that are none, each a user of its own: {kinds}")
    # The last one is that of rows without an author.
    author = np.where(np.append(is_none, True)[rows.author], np.int32(-1), rows.author)
    return replace(rows, author=author)


def _with_one_type(
    name: str, rows: StoredRows, options: DataConfig, notes: list[str]
) -> StoredRows:
    """The rows with one type for each author, as `data.conflicting_types` says."""
    is_named = rows.author >= 0
    pairs = rows.author[is_named].astype(np.int64) * len(TYPES) + rows.types[is_named]
    found, counts = np.unique(pairs, return_counts=True)
    authors, kinds = np.unique(found // len(TYPES), return_counts=True)
    conflicts = authors[kinds > 1]
    if not len(conflicts):
        return rows
    line = f"more than one type: {len(conflicts):,} of {counted(len(authors), 'author')}"
    if options.conflicting_types == "refuse":
        own = dict.fromkeys(rows.types[rows.author == conflicts[0]].tolist())
        first = repaired_line(rows.authors[int(conflicts[0])], limit=40)
        raise DataError(
            f'{name}: {line} (first: "{first}", '
            f"{', '.join(TYPES[t] for t in own)}); allowed: "
            "data.conflicting_types=majority or data.conflicting_types=leave_out"
        )
    # By author, and at the end for rows without one: a type, or what to do with their own.
    chosen = np.full(len(rows.authors) + 1, _KEEP)
    chosen[conflicts] = _LEAVE_OUT
    if options.conflicting_types == "majority":
        ends = np.searchsorted(found // len(TYPES), conflicts, side="right")
        for author, start, end in zip(conflicts, ends - kinds[kinds > 1], ends, strict=True):
            *_, second, first = start + np.argsort(counts[start:end])
            if counts[first] > counts[second]:
                chosen[author] = found[first] % len(TYPES)
    left_out = np.count_nonzero(chosen == _LEAVE_OUT)
    notes.append(
        f"{line}; most frequent type taken for {len(conflicts) - left_out:,}, left out {left_out:,}"
    )
    own_types = chosen[rows.author]
    types = np.where(own_types == _KEEP, rows.types, own_types).astype(np.int8)
    shares = np.where((types == rows.types)[:, None], rows.shares, np.nan)
    kept = np.flatnonzero(own_types != _LEAVE_OUT)
    return replace(rows, types=types, shares=shares).take(kept)


def _joined(rows: StoredRows, options: DataConfig, notes: list[str]) -> StoredRows:
    """One row for each author, where `data.join_rows` says so."""
    person = np.where(rows.author >= 0, rows.author, len(rows.authors) + np.arange(len(rows)))
    _, first, inverse = np.unique(person, return_index=True, return_inverse=True)
    # The first row of the same author, for each row.
    owner = first[inverse]
    sizes = np.bincount(owner, minlength=len(rows))
    is_several = sizes[owner] > 1
    several = int(np.count_nonzero(sizes > 1))
    if not several:
        return rows
    rows_of_several = f"{is_several.sum():,} rows of {counted(several, 'author')}"
    has_users = (rows.posts.totals[is_several] > 1).all()
    if options.join_rows == "never" or (options.join_rows == "auto" and has_users):
        notes.append(f"{rows_of_several} stay one user each (data.join_rows)")
        return rows
    notes.append(f"{rows_of_several} are {counted(several, 'user')} (data.join_rows)")
    order, firsts = np.argsort(owner, kind="stable"), np.flatnonzero(sizes)
    offsets = np.append(0, np.cumsum(sizes[firsts]))
    users = rows.take(firsts)
    if not np.isnan(rows.shares).all():
        for k in np.flatnonzero(sizes[firsts] > 1):
            own = rows.shares[order[offsets[k] : offsets[k + 1]]].tolist()
            users.shares[k] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    return replace(users, posts=replace(rows.posts.take(order), offsets=offsets))


def _join(rows: Sequence[Row]) -> Row:
    """For prediction: the rows of one author as one."""
    return replace(rows[0], posts=tuple(chain.from_iterable(row.posts for row in rows)))
