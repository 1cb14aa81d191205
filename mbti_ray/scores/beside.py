"""Which baselines stand beside a model's scores, and why one that is asked for is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import ConfigError
from mbti_ray.scores.baselines import Baseline, majority, most_mentioned, tfidf

# Of a row in which masking has left no type.
_NONE = -1


@dataclass(frozen=True)
class Training:
    """What TF-IDF learns from, labels [N, 4], and the R texts that it answers."""

    texts: Sequence[str]
    labels: NDArray[Any]
    evaluated: Sequence[str]


def baselines_beside(
    labels: NDArray[Any],
    mentioned: NDArray[Any],
    *,
    is_masked: bool,
    training: Callable[[], Training] | str,
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines of R evaluated rows, and a reason for each that is missing.

    Args:
        labels: Of the rows, [R, 4].
        mentioned: The type that each row mentions most as written, as its place in TYPES, or -1.
        is_masked: The model reads the rows without their type words.
        training: Gives TF-IDF its texts, or says why there is none.
    """
    beside = [
        majority(labels),
        most_mentioned(
            mentioned,
            labels,
            name="most_mentioned",
            description="the type that the unmasked posts mention most, else the commonest",
            comparable=not is_masked,
        ),
    ]
    if is_masked:
        masked = most_mentioned(
            np.full(len(labels), _NONE),
            labels,
            name="most_mentioned_masked",
            description="the same after masking: always the commonest type",
            comparable=True,
        )
        beside.append(masked)
    if isinstance(training, str):
        return beside, {"tfidf": training}
    try:
        given = training()
        return [*beside, tfidf(given.texts, given.labels, given.evaluated)], {}
    except ConfigError as error:
        return beside, {"tfidf": str(error)}
