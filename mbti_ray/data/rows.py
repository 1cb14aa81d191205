"""What a row is, how the cells of a record are parsed into one, and the facts of a dataset.

Owns the `|||` between posts, and what a label may be: four letters, or four shares. Must not know
which file format or column the cells came from; masks nothing.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mbti_ray.data.mask import type_mentions
from mbti_ray.data.text import has_content, repair_encoding
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of, type_of

POST_SEPARATOR = "|||"
# As 16personalities writes types: INFJ-T, INFJ-A.
_SUFFIXED = re.compile(r"([A-Z]{4}) ?[-_/\u2010-\u2014] ?[AT]")

Shares = tuple[float, float, float, float]
# As pandas writes a column of 0 and 1 that it read as booleans.
_SHARE_WORDS = {"true": "1", "false": "0"}
# As pandas and R write a missing number.
_NO_SHARE = ("", "nan", "na")
_DECIMAL_COMMA = re.compile(r"0?,\d+|1,0+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: a user with one or more posts.

    Attributes:
        number: Where to find it: the line in a CSV (1 is the header) or JSON Lines file, else the
            row, counted from 1.
        mbti_type: One of `typology.TYPES`; None only when read with ``labeled=False``.
        posts: Texts as written, with the encoding repaired; never masked, never empty.
        author: Who wrote it, if the source says; an empty cell is None.
        id: The `id` column, if there is one.
        shares: The soft label: how far, from 0 to 1, it is E, N, T and J, if the source says; NaN
            where it does not say it of one of them.
    """

    number: int
    mbti_type: str | None
    posts: tuple[str, ...]
    author: str | None = None
    id: str | None = None
    shares: Shares | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is, and why."""

    number: int
    reason: str


def parse_row(
    number: int, cells: Mapping[str, object], *, labeled: bool, is_inverted: bool = False
) -> tuple[Row, bool]:
    """The row in cells by role (see `columns`), and whether its encoding was repaired.

    The shares in the cells are those of E, N, T and J; if `is_inverted`, of I, S, F and P. A
    DataError says why the row cannot be used, in one line, without file or row number.
    """
    shares = _parse_shares(cells, is_inverted=is_inverted) if labeled else None
    if shares is not None and _is_missing(cells.get("type")):
        if missing := [p for p, s in zip(POSITIVE_POLES, shares, strict=True) if math.isnan(s)]:
            raise DataError(f"{missing[0]} is missing, and so is the type; needed: one of them")
        mbti_type: str | None = type_of([share > 0.5 for share in shares])
    else:
        mbti_type = _parse_type(cells.get("type"), labeled=labeled)
    given = parse_posts(cells.get("text"))
    posts = tuple(repair_encoding(post) for post in given)
    author, author_given = _parse_name(cells.get("author"))
    row = Row(number, mbti_type, posts, author, _parse_name(cells.get("id"))[0], shares)
    return row, posts != given or author != author_given


def parse_posts(cell: object) -> tuple[str, ...]:
    """The posts of a cell: a list of texts, or one text with ``|||`` between posts.

    Raises DataError if there are none, or the cell is neither.
    """
    if isinstance(cell, str):
        texts: list[object] = [*_without_outer_quotes(cell).split(POST_SEPARATOR)]
    elif isinstance(cell, list | tuple):
        texts = [*cell]
    elif _is_missing(cell):
        texts = []
    else:
        raise DataError(f"posts are {type(cell).__name__}; allowed: a string or a list of strings")
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise DataError(f"a post is {type(odd[0]).__name__}; allowed: a string")
    posts = tuple(post for text in texts if has_content(post := str(text).strip()))
    if not posts:
        raise DataError("no posts")
    return posts


def _without_outer_quotes(cell: str) -> str:
    # The public set wraps whole cells in single quotes inside the CSV's own double quotes.
    text = cell.strip()
    while len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _parse_type(cell: object, *, labeled: bool) -> str | None:
    letters = cell.strip().upper() if isinstance(cell, str) else ""
    if match := _SUFFIXED.fullmatch(letters):
        letters = match[1]
    if letters in TYPES:
        return letters
    if not labeled:
        return None
    if _is_missing(cell):
        raise DataError("no type")
    if not isinstance(cell, str):
        raise DataError(f"type is {cell!r}; allowed: four letters, such as INTJ")
    try:
        labels_of(cell)
    except DataError as error:
        # Quoted, spaced, with a name behind it, with invisible or full-width characters.
        named = {*type_mentions(cell)}
        hint = f'; did you mean "{named.pop()}"?' if len(named) == 1 else ""
        raise DataError(f"{error}{hint}") from None
    raise AssertionError(f"{cell!r} has labels but is not one of the sixteen types")


def _parse_shares(cells: Mapping[str, object], *, is_inverted: bool) -> Shares | None:
    shares = []
    for pole in POSITIVE_POLES:
        cell = cells.get(pole)
        if _is_missing(cell) or str(cell).strip().lower() in _NO_SHARE:
            shares.append(math.nan)
            continue
        try:
            share = float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            share = -1
        if not 0 <= share <= 1:
            fix = f"; {share:g} % is {share / 100:g}" if 2 <= share <= 100 else ""
            plain = _SHARE_WORDS.get(str(cell).strip().lower(), str(cell).strip())
            if plain in _SHARE_WORDS.values() or _DECIMAL_COMMA.fullmatch(plain):
                fix = f"; write {plain.replace(',', '.')}"
            raise DataError(f"{pole} is {cell!r}; allowed: 0, 1 or a share between them{fix}")
        shares.append(round(1 - share, 9) if is_inverted else share)
    if all(map(math.isnan, shares)):
        return None
    e, n, t, j = shares
    return e, n, t, j


def _parse_name(cell: object) -> tuple[str | None, str | None]:
    """A name with its encoding repaired, and as given; None where the cell is empty."""
    # A column of numbers with gaps is one of floats in Parquet.
    whole = isinstance(cell, float) and cell.is_integer()
    given = "" if _is_missing(cell) else str(int(cell) if whole else cell).strip()  # type: ignore[call-overload]
    return repair_encoding(given) or None, given or None


def _is_missing(cell: object) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a prepared dataset besides its tokens; in the cache and in every bundle.

    Attributes:
        rows: Rows by split.
        person: What counts as one person: author or user.
        mask_version: 0 where nothing was masked.
        bad: Rows that were left out.
        repaired: Rows whose text encoding was repaired.
        truncated: Rows with more text than the model reads.
        held_out_posts, shared_posts: Posts in val and test; those whose text is also in train.
        notes: How the source was read, where a user should know.
        warnings: What makes scores on this data doubtful, a line each.
    """

    source: str
    fingerprint: str
    split_by: str
    person: str
    rows: dict[str, int]
    mask_version: int
    mask_also: list[str]
    bad: list[BadRow]
    repaired: int
    truncated: int
    held_out_posts: int = 0
    shared_posts: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
