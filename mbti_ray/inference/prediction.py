"""What is predicted for one input, and for several: records that show themselves in a notebook.

Must not know models, so that importing it is cheap.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbti_ray.typology import POSITIVE_POLES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input; as a string it is the type.

    Attributes:
        type: Four letters; X where the bundle abstains.
        probabilities: Of the positive poles, by letter: E, N, T, J.
        truncated: Part of the input was not read because it exceeds the limits.
        windows: Number of windows that were read.
        unknown: Share of the words that the tokenizer does not know, as in another script.
        tokens: How much text was read.
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
