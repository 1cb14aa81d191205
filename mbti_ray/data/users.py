"""Who wrote which rows: authors that are none, authors with several types, rows joined to users.

Owns which rows make a user. Must not know of splits or of what the model reads.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.columns import ColumnMap
from mbti_ray.data.posts import PostStore, join_posts
from mbti_ray.data.processes import MapBatches, map_in_process
from mbti_ray.data.readers import BUILTIN, read_records
from mbti_ray.data.rows import BadRow, Row, Shares
from mbti_ray.data.sources import Source, read_source, stream_rows
from mbti_ray.errors import DataError, counted

# What exports write where there is no author, or one that nobody knows.
_PLACEHOLDERS = frozenset(
    ("[deleted]", "[removed]", "deleted", "anonymous", "unknown", "null", "none", "nan", "n/a", "-")
)
_HEADED = {".csv", ".tsv", ".parquet"}
# Python takes one to four bytes for each.
_MAX_KEPT_CHARACTERS = 10**9


def load_users(
    options: DataConfig, *, store: PostStore | None = None, map_batches: MapBatches = map_in_process
) -> Source:
    """The labeled rows of `data.source`: a row for each user, or as the source has them.

    Raises:
        DataError: As `read_source`, or authors have more than one type.
    """
    source = read_source(options.source, options, store=store, map_batches=map_batches)
    notes = [*source.notes]
    rows = _without_placeholders(source.rows, notes)
    rows = _with_one_type(source.name, rows, options, notes)
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


def _without_placeholders(rows: Sequence[Row], notes: list[str]) -> list[Row]:
    named = Counter(row.author for row in rows if (row.author or "").lower() in _PLACEHOLDERS)
    if named:
        kinds = ", ".join(f'"{name}" {count:,}' for name, count in named.most_common(5))
        notes.append(f"rows of authors that are none, each a user of its own: {kinds}")
    return [replace(row, author=None) if row.author in named else row for row in rows]


def _with_one_type(name: str, rows: list[Row], options: DataConfig, notes: list[str]) -> list[Row]:
    """The rows with one type for each author, as `data.conflicting_types` says."""
    by_author: dict[str, Counter[str]] = {}
    for row in rows:
        if row.author is not None and row.mbti_type is not None:
            by_author.setdefault(row.author, Counter())[row.mbti_type] += 1
    conflicts = {author: types for author, types in by_author.items() if len(types) > 1}
    if not conflicts:
        return rows
    author, types = next(iter(conflicts.items()))
    line = f"more than one type: {len(conflicts):,} of {counted(len(by_author), 'author')}"
    if options.conflicting_types == "refuse":
        raise DataError(
            f'{name}: {line} (first: "{author}", {", ".join(types)}); allowed: '
            "data.conflicting_types=majority or data.conflicting_types=leave_out"
        )
    chosen: dict[str, str | None] = dict.fromkeys(conflicts)
    if options.conflicting_types == "majority":
        for author, types in conflicts.items():
            (first, most), (_, second) = types.most_common(2)
            chosen[author] = first if most > second else None
    left_out = sum(choice is None for choice in chosen.values())
    notes.append(
        f"{line}; most frequent type taken for {len(chosen) - left_out:,}, left out {left_out:,}"
    )
    kept = []
    for row in rows:
        own = chosen.get(row.author or "", row.mbti_type)
        if own is not None or row.author not in chosen:
            kept.append(row if own == row.mbti_type else replace(row, mbti_type=own, shares=None))
    return kept


def _joined(rows: list[Row], options: DataConfig, notes: list[str]) -> list[Row]:
    """One row for each author, where `data.join_rows` says so."""
    by_author: dict[object, list[Row]] = {}
    for row in rows:
        by_author.setdefault(row.author or row.number, []).append(row)
    several = [own for own in by_author.values() if len(own) > 1]
    if not several:
        return rows
    rows_of_several = f"{sum(map(len, several)):,} rows of {counted(len(several), 'author')}"
    has_users = all(len(row.posts) > 1 for own in several for row in own)
    if options.join_rows == "never" or (options.join_rows == "auto" and has_users):
        notes.append(f"{rows_of_several} stay one user each (data.join_rows)")
        return rows
    notes.append(f"{rows_of_several} are {counted(len(several), 'user')} (data.join_rows)")
    return [_join(own) for own in by_author.values()]


def _join(rows: Sequence[Row]) -> Row:
    shares: Shares | None = None
    if all(row.shares for row in rows):
        columns = zip(*(row.shares for row in rows if row.shares), strict=True)
        e, n, t, j = (sum(column) / len(rows) for column in columns)
        shares = (e, n, t, j)
    posts = join_posts(row.posts for row in rows)
    return replace(rows[0], posts=posts, shares=shares, joined=len(rows))
