"""What counts as texts in Python: a text, a sequence, or a column of pandas, NumPy or Arrow.

Must not know models. Importing it is cheap.
"""

from collections.abc import Sequence
from typing import Any

from mbti_ray.data.text import has_content
from mbti_ray.errors import DataError

_TEXTS = "a text, a sequence of texts, or one column of texts of pandas, NumPy or Arrow"
_POSTS = "the posts of a person as a list of texts, or a list of such lists"


def read_texts(texts: Any) -> list[str]:
    """The texts in what a user gave: a text alone, in a sequence, or in a column.

    Raises:
        DataError: It is something else, or one of its rows has no text to read.
    """
    values = [texts] if isinstance(texts, str) else _list_of(texts, allowed=_TEXTS)
    for row, value in enumerate(values):
        where = "" if isinstance(texts, str) else f"row {row} (from 0): "
        if not isinstance(value, str):
            is_number = value is None or isinstance(value, int | float)
            given = str(value) if is_number else type(value).__name__
            raise DataError(f"{where}expected a text, got {given}")
        if not has_content(value):
            raise DataError(f"{where}the text is empty or has invisible characters only")
    return values


def read_posts(posts: Any) -> tuple[list[list[str]], bool]:
    """The posts of each person, and whether they were given as a list of lists.

    Raises:
        DataError: It is something else, or somebody has no post, or one without a text to read.
    """
    values = _list_of(posts, allowed=_POSTS)
    if not values:
        raise DataError(f"got no posts; allowed: {_POSTS}")
    if isinstance(values[0], str):
        return [read_texts(values)], False
    people = []
    for person, own in enumerate(values):
        try:
            people.append(read_texts(_list_of(own, allowed=_POSTS)))
        except DataError as error:
            raise DataError(f"person {person} (from 0): {error}") from None
        if not people[-1]:
            raise DataError(f"person {person} (from 0): has no posts")
    return people, True


def _list_of(values: Any, *, allowed: str) -> list[Any]:
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    if getattr(values, "ndim", None) == 1 and hasattr(values, "tolist"):
        return list(values.tolist())
    if hasattr(values, "to_pylist") and hasattr(values, "type"):
        return list(values.to_pylist())
    raise DataError(f"got {type(values).__name__}; allowed: {allowed}")
