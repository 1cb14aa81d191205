"""`MBTIClassifier`: a bundle in Python, for notebooks and programs.

Owns what it takes (texts, sequences, columns) and what it returns. Must not know Ray, HTTP or how
logits are computed, which is the predictor's.

Shapes: R texts, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from mbti_ray.data.text import has_content
from mbti_ray.errors import DataError
from mbti_ray.inference.predictor import Prediction, Predictor
from mbti_ray.runs.lookup import fetch_bundle


class MBTIClassifier:
    """A trained model in Python; source: the seed's "Inference" section.

    >>> classifier = MBTIClassifier.load_from_checkpoint("runs/quick/best/bundle")
    >>> classifier.predict("I love analysing complex problems")
    'INTJ'
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, *, device: str = "cpu") -> "MBTIClassifier":
        """A classifier from a bundle, run or study folder, given by path or URL.

        Raises:
            RunError: The path holds no bundle.
            BundleError: The bundle is damaged.
        """
        return cls(Predictor.load(fetch_bundle(path), device=device))

    @overload
    def predict(self, text: str) -> str: ...
    @overload
    def predict(self, text: Any) -> list[str]: ...
    def predict(self, text: Any) -> str | list[str]:
        """The type of a text; or of each text in a sequence, or a pandas, NumPy or Arrow column.

        Raises:
            DataError: Something is not a text, or has nothing to read in it.
        """
        types = [prediction.mbti_type for prediction in self._predict(text)]
        return types[0] if isinstance(text, str) else types

    def predict_proba(self, text: Any) -> Tensor:
        """Probabilities of E, N, T, J: [4] for a text, [R, 4] for what else `predict` takes."""
        rows = torch.tensor([p.probabilities for p in self._predict(text)]).reshape(-1, 4)
        return rows[0] if isinstance(text, str) else rows

    def _predict(self, text: Any) -> list[Prediction]:
        return self._predictor.predict([[t] for t in read_texts(text)], whole=False)


def read_texts(texts: Any) -> list[str]:
    """The texts of `MBTIClassifier.predict`: a text alone, in a sequence, or in a column.

    Raises:
        DataError: It is something else, or one of its rows has no text to read.
    """
    values: list[Any]
    if isinstance(texts, str):
        values = [texts]
    elif isinstance(texts, Sequence) and not isinstance(texts, bytes):
        values = list(texts)
    elif getattr(texts, "ndim", None) == 1 and hasattr(texts, "tolist"):
        values = texts.tolist()
    elif hasattr(texts, "to_pylist") and hasattr(texts, "type"):
        values = texts.to_pylist()
    else:
        raise DataError(
            f"got {type(texts).__name__}; allowed: a text, a sequence of texts, or one column of "
            "texts of pandas, NumPy or Arrow"
        )
    for row, value in enumerate(values):
        where = "" if isinstance(texts, str) else f"row {row} (from 0): "
        if not isinstance(value, str):
            is_number = value is None or isinstance(value, int | float)
            given = str(value) if is_number else type(value).__name__
            raise DataError(f"{where}expected a text, got {given}")
        if not has_content(value):
            raise DataError(f"{where}the text is empty or has invisible characters only")
    return values
