"""A stack: per dimension a logistic regression on the logits of the encoder and of TF-IDF.

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

from mbti_ray.model.tfidf import fit_logistic

Floats = NDArray[np.float64]

_FILE = "stack.safetensors"


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

    A member whose weight would be negative, so that it were believed to err on purpose, gets 0
    (Breiman 1996, "Stacked Regressions").
    """
    weights, bias = np.zeros((4, 2)), np.zeros(4)
    for k, target in enumerate(targets.T):
        columns = [0, 1]
        both = np.column_stack([encoder[:, k], tfidf[:, k]])
        while columns:
            fitted, bias_of_fitted = fit_logistic(both[:, columns], target, inverse_penalty=1.0)
            kept = [c for c, w in zip(columns, fitted, strict=True) if w >= 0]
            if kept == columns:
                weights[k, columns], bias[k] = fitted, bias_of_fitted
                break
            columns = kept
    return Stack(weights, bias)
