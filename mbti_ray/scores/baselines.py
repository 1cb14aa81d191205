"""Baselines that a model has to beat: predictions that need no encoder.

Must not know how TF-IDF is trained: that one is handed in. Shapes: R evaluated rows, 4 dimensions
in the order E/I, S/N, T/F, J/P.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import ConfigError
from mbti_ray.typology import TYPES, labels_of

_LABELS = np.array([labels_of(t) for t in TYPES], dtype=bool)
# Index into TYPES of a row that mentions no type.
_NO_TYPE = -1


@dataclass(frozen=True)
class Baseline:
    """Predictions that a model is compared with: True for the positive pole, [R, 4].

    It is not `comparable` if it reads what the model may not, such as masked type words.
    """

    name: str
    description: str
    predicted: NDArray[np.bool_]
    comparable: bool = True


def build_baselines(
    labels: NDArray[Any],
    mentioned: NDArray[Any],
    *,
    is_masked: bool,
    learned: Callable[[], Baseline] | str,
) -> tuple[list[Baseline], dict[str, str]]:
    """The baselines of R evaluated rows, and by name the reason for each that is missing.

    Args:
        mentioned: The type that each row mentions most before masking, as an index into TYPES, or
            -1, [R].
        is_masked: The model reads the rows without their type words.
        learned: Trains the TF-IDF baseline; or why there is nothing to train it on.
    """
    baselines = [
        majority_class(labels),
        most_mentioned_type(
            mentioned,
            labels,
            name="most_mentioned",
            description="the type that the unmasked posts mention most, else the most common type",
            comparable=not is_masked,
        ),
    ]
    if is_masked:
        masked = "the same after masking: always the most common type"
        nobody = np.full(len(labels), _NO_TYPE)
        baselines.append(
            most_mentioned_type(nobody, labels, name="most_mentioned_masked", description=masked)
        )
    if isinstance(learned, str):
        return baselines, {"tfidf": learned}
    try:
        return [*baselines, learned()], {}
    except ConfigError as error:
        return baselines, {"tfidf": str(error)}


def majority_class(labels: NDArray[Any]) -> Baseline:
    """The majority class of these very rows [R, 4] in each dimension, the same for every row.

    The four classes together need not be the most common type, so another constant prediction can
    have more rows entirely correct: `most_mentioned_type` without any mention predicts that type.
    """
    poles = labels.astype(bool).mean(0) >= 0.5
    return Baseline(
        name="majority",
        description="the majority class of these very rows in each dimension",
        predicted=np.tile(poles, (len(labels), 1)),
    )


def most_mentioned_type(
    mentioned: NDArray[Any],
    labels: NDArray[Any],
    *,
    name: str,
    description: str,
    comparable: bool = True,
) -> Baseline:
    """The type that each row mentions most, as an index into TYPES [R].

    A row that mentions none (-1) gets the most common type of these very rows; of equally common
    ones the first in TYPES.
    """
    same = (labels.astype(bool)[:, None, :] == _LABELS).all(2)
    most_common = int(same.sum(0).argmax())
    predicted = _LABELS[np.where(mentioned < 0, most_common, mentioned)]
    return Baseline(name, description, predicted, comparable)
