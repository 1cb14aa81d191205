"""What a row is, and how the cells of a record are parsed into one.

Owns the columns (`type`, `posts` or `text`, optional `author` and `id`) and the `|||` between
posts. Must not know which file format the cells came from; masks nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mbti_ray.data.text import has_content, repair_encoding
from mbti_ray.errors import DataError
from mbti_ray.typology import TYPES, labels_of

POST_SEPARATOR = "|||"
TEXT_COLUMNS = ("posts", "text")
COLUMNS = ("type", *TEXT_COLUMNS, "author", "id")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: a user with one or more posts.

    Attributes:
        number: Where to find it: the line in a CSV (1 is the header) or JSONL file, else the row,
            counted from 1.
        mbti_type: One of `typology.TYPES`; None only when read with ``labelled=False``.
        posts: Texts as written, with the encoding repaired; never masked, never empty.
        author: Who wrote it, if the source says; an empty cell is None.
        id: The `id` column, if there is one.
    """

    number: int
    mbti_type: str | None
    posts: tuple[str, ...]
    author: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: where it is, and why."""

    number: int
    reason: str


def parse_row(number: int, cells: Mapping[str, object], *, labelled: bool) -> tuple[Row, bool]:
    """The row in cells by lower-case column name, and whether its encoding was repaired.

    Raises:
        DataError: Why the row cannot be used, in one line, without file or row number.
    """
    mbti_type = _parse_type(cells.get("type"), labelled=labelled)
    given = parse_posts(next((cells[c] for c in TEXT_COLUMNS if cells.get(c) is not None), None))
    posts = tuple(repair_encoding(post) for post in given)
    author, author_given = _parse_name(cells.get("author"))
    row = Row(number, mbti_type, posts, author, _parse_name(cells.get("id"))[0])
    return row, posts != given or author != author_given


def parse_posts(cell: object) -> tuple[str, ...]:
    """The posts of a cell: a list of texts, or one text with ``|||`` between posts.

    Raises:
        DataError: There are none, or the cell is neither.
    """
    if isinstance(cell, str):
        texts: list[object] = [*_without_outer_quotes(cell).split(POST_SEPARATOR)]
    elif isinstance(cell, list | tuple):
        texts = [*cell]
    elif cell is None:
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


def _parse_type(cell: object, *, labelled: bool) -> str | None:
    if isinstance(cell, str) and (letters := cell.strip().upper()) in TYPES:
        return letters
    if not labelled:
        return None
    if cell is None or cell == "":
        raise DataError("no type")
    if not isinstance(cell, str):
        raise DataError(f"type is {cell!r}; allowed: four letters, such as INTJ")
    labels_of(cell)
    raise AssertionError(f"{cell!r} has labels but is not one of the sixteen types")


def _parse_name(cell: object) -> tuple[str | None, str | None]:
    """A name with its encoding repaired, and as given; None where the cell is empty."""
    given = "" if cell is None else str(cell).strip()
    return repair_encoding(given) or None, given or None
