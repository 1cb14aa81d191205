"""The rows whose probabilities were most wrong. Must not know where their texts come from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mbti_ray.scores.scorecard import Scored
from mbti_ray.typology import type_of


class Mistake(NamedTuple):
    """A row with the type that it has, the one that was predicted, and its log loss.

    `text` is what the model read.
    """

    true: str
    predicted: str
    loss: float
    text: str


def find_mistakes(scored: Scored, texts: Sequence[str], *, count: int) -> list[Mistake]:
    """Of the rows with a wrong letter the `count` with the highest mean log loss of all four."""
    given = np.where(scored.labels, scored.probabilities, 1 - scored.probabilities)
    losses = -np.log(np.clip(given, 1e-12, 1)).mean(1)
    order = [k for k in np.argsort(-losses, kind="stable") if not scored.correct[k].all()]
    return [
        Mistake(type_of(scored.labels[k]), type_of(scored.predicted[k]), float(losses[k]), texts[k])
        for k in order[:count]
    ]
