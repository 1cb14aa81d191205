"""What goes in and comes out in Python: texts of many kinds, and predictions that show themselves.

Must not know models, so that importing it is cheap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbti_ray.data.text import has_content
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES

if TYPE_CHECKING:
    import pandas as pd
_TEXTS = "a text, a sequence of texts, or one column of texts of pandas, NumPy or Arrow"
_POSTS = "the posts of a person as a list of texts, or a list of such lists"


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input; as a string it is the type.

    Attributes:
        type: Four letters; X where the bundle abstains.
        probabilities: Of the positive poles, by letter: E, N, T, J.
        truncated: Part of the input was not read because it exceeds the limits.
        windows, tokens: How much was read.
        unknown: Share of the words that the tokenizer does not know, as in another script.
        more_posts: By letter, as `Decision.more_posts` says; None where the length says nothing.
    """

    type: str
    probabilities: dict[str, float]
    truncated: bool
    windows: int
    unknown: float = 0.0
    tokens: int = 0
    more_posts: dict[str, int | None] | None = None

    @property
    def abstained(self) -> bool:
        """Whether the bundle abstains on any of the four letters."""
        return "X" in self.type

    def as_dict(self) -> dict[str, Any]:
        """The prediction as the HTTP service answers it."""
        answer = dict(vars(self))
        if self.more_posts is None:
            del answer["more_posts"]
        return answer

    def __str__(self) -> str:
        return self.type

    def _repr_html_(self) -> str:
        return Predictions([self])._repr_html_()


class Predictions(list[Prediction]):
    """The predictions for several inputs, in their order."""

    def to_frame(self) -> "pd.DataFrame":
        """A pandas DataFrame: a row for each input, a column for each probability."""
        import pandas as pd

        facts = ("abstained", "truncated", "windows", "unknown", "tokens")
        return pd.DataFrame(
            [[p.type, *p.probabilities.values(), *(getattr(p, f) for f in facts)] for p in self],
            columns=["type", *POSITIVE_POLES, *facts],
        )

    def _repr_html_(self) -> str:
        from mbti_ray.reports.html import render_text

        return render_text("predictions.html", predictions=self)


def read_texts(texts: Any) -> list[str]:
    """The texts in what a user gave: alone, in a sequence or column; else a DataError."""
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
    """The posts of each person, and whether they were given as a list of lists; or a DataError."""
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
