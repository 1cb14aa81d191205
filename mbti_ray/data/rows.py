"""What one row is, and how the cells of a file become one.

Knows the columns (`type`, `posts` or `text`, optional `author` and `id`) and the `|||` between
posts; must not know which kind of file the cells came from, and masks nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mbti_ray.data.text import repair_encoding
from mbti_ray.errors import DataError
from mbti_ray.typology import TYPES, labels_of

POST_SEPARATOR = "|||"
TEXT_COLUMNS = ("posts", "text")
COLUMNS = ("type", *TEXT_COLUMNS, "author", "id")


@dataclass(frozen=True, slots=True)
class Row:
    """One user as the file has it.

    Attributes:
        number: Where a person finds it: the line of a CSV (1 is the header) or JSONL file, the
            row counted from 1 otherwise.
        mbti_type: One of `typology.TYPES`; None only when read with ``labelled=False``.
        posts: Text as written, encoding repaired, never masked, never empty.
        author: Whoever wrote it, where the file says; an empty cell is None.
        id: The `id` column, where there is one.
    """

    number: int
    mbti_type: str | None
    posts: tuple[str, ...]
    author: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be used, where it is and why."""

    number: int
    reason: str


def parse_row(number: int, cells: Mapping[str, object], *, labelled: bool) -> tuple[Row, bool]:
    """The row that cells (by lower-case column name) mean, and whether a text was repaired.

    Raises:
        DataError: Why the row cannot be used, in one line, without file or row number.
    """
    mbti_type = _type_in(cells.get("type"), labelled=labelled)
    given = parse_posts(next((cells[c] for c in TEXT_COLUMNS if cells.get(c) is not None), None))
    posts = tuple(repair_encoding(post) for post in given)
    author, author_given = _name_in(cells.get("author"))
    row = Row(number, mbti_type, posts, author, _name_in(cells.get("id"))[0])
    return row, posts != given or author != author_given


def parse_posts(cell: object) -> tuple[str, ...]:
    """The posts of a cell: a list of texts, or one text with ``|||`` between posts.

    Raises:
        DataError: There are none, or it is neither.
    """
    if isinstance(cell, str):
        texts: list[object] = [*_without_outer_quotes(cell).split(POST_SEPARATOR)]
    elif isinstance(cell, list | tuple):
        texts = [*cell]
    elif cell is None:
        texts = []
    else:
        raise DataError(f"posts are {type(cell).__name__}; allowed: a text or a list of texts")
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise DataError(f"a post is {type(odd[0]).__name__}; allowed: text")
    posts = tuple(post for text in texts if (post := str(text).strip()))
    if not posts:
        raise DataError("no posts")
    return posts


def _without_outer_quotes(cell: str) -> str:
    # The public set wraps whole cells in single quotes inside the CSV's own double quotes.
    text = cell.strip()
    while len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _type_in(cell: object, *, labelled: bool) -> str | None:
    if isinstance(cell, str) and (letters := cell.strip().upper()) in TYPES:
        return letters
    if not labelled:
        return None
    if cell is None or cell == "":
        raise DataError("no type")
    if not isinstance(cell, str):
        raise DataError(f"type is {cell!r}; allowed: four letters, such as INTJ")
    labels_of(cell)
    raise AssertionError(f"{cell!r} has labels but is none of the sixteen types")


def _name_in(cell: object) -> tuple[str | None, str | None]:
    """A name repaired and as given; None where the cell is empty."""
    given = "" if cell is None else str(cell).strip()
    return repair_encoding(given) or None, given or None
