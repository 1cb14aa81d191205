"""A stack: a logistic regression on the logits of the encoder and of TF-IDF.

Fitted to logits of rows that neither of the two was trained on (Wolpert 1992, "Stacked
Generalization"). Must not know how those were made, bundles or torch.

Shapes: R rows, 4 dimensions in the order E, N, T, J.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mbti_ray.model.tfidf import balanced_weights, fit_logistic

Floats = NDArray[np.float64]

_FILE = "stack.safetensors"
_BIAS_SCALE = 10.0


@dataclass(frozen=True)
class Stack:
    """Weights [4, 2] of the encoder's and of TF-IDF's logit, none negative, and a bias [4]."""

    weights: Floats
    bias: Floats

    def __post_init__(self) -> None:
        if (self.weights.shape, self.bias.shape) != ((4, 2), (4,)):
            raise ValueError(f"a stack has weights [4, 2], not {self.weights.shape}")

    def logits(self, encoder: Floats, tfidf: Floats) -> Floats:
        """Logits [R, 4] from those of both members."""
        return np.asarray(encoder * self.weights[:, 0] + tfidf * self.weights[:, 1] + self.bias)

    def save(self, folder: Path) -> None:
        save_file({"weights": self.weights, "bias": self.bias}, folder / _FILE)


def load_stack(folder: Path) -> Stack:
    """The stack that `save` wrote; an OSError or ValueError where it is damaged."""
    return Stack(**load_file(folder / _FILE))


def fit_stack(encoder: Floats, tfidf: Floats, targets: NDArray[Any]) -> Stack:
    """Fit to logits [R, 4] of both members and labels [R, 4], 0/1 or shares; classes weigh alike.

    A member counts as much in one dimension as in the others: two weights for all rows of all four
    can be told from few people, eight cannot. A member whose weight would be negative, so that it
    were believed to err on purpose, gets 0 (Breiman 1996, "Stacked Regressions").
    """
    both = np.stack([encoder.ravel(), tfidf.ravel()], 1)
    # Large, so that the penalty does not shrink the biases.
    dimensions = np.tile(_BIAS_SCALE * np.eye(4), (len(targets), 1))
    weight = balanced_weights(targets).reshape(2, -1)
    believed, kept = None, [0, 1]
    while kept != believed:
        believed = kept
        features = np.column_stack([both[:, believed], dimensions])
        fitted, _ = fit_logistic(features, weight, inverse_penalty=1.0, has_bias=False)
        kept = [m for m, w in zip(believed, fitted[:-4], strict=True) if w >= 0]
    weights = np.zeros((4, 2))
    weights[:, kept] = fitted[:-4]
    return Stack(weights, _BIAS_SCALE * fitted[-4:])
