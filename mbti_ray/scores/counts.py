"""From window logits to row logits, from row logits to counts, from counts to scores.

Counts add up: over batches, ranks and machines. Scores are made from the summed counts, once, so
they are the same however the rows were spread. Knows nothing of models, files or ranks.

Shapes: N windows, R rows, 4 dimensions in the order E, N, T, J.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

Scores = dict[str, float]

_PLACES = torch.tensor([8, 4, 2, 1])
# Names of the summed figures, in the order in which they stand in the vector of counts.
_HEAD = (
    "rows",
    "loss",
    "brier",
    *(f"right_{d.key}" for d in DIMENSIONS),
    "right_all",
    *(f"given_{d.key}" for d in DIMENSIONS),
    *(f"hit_{d.key}" for d in DIMENSIONS),
)


def pool_rows(logits: Tensor, row: Tensor, tokens: Tensor, row_count: int) -> Tensor:
    """Row logits [R, 4]: the mean of a row's window logits [N, 4], weighted by their tokens [N]."""
    weight = tokens.to(logits.dtype)
    total = torch.zeros(row_count, dtype=logits.dtype, device=logits.device)
    total.index_add_(0, row, weight)
    pooled = torch.zeros(row_count, logits.shape[1], dtype=logits.dtype, device=logits.device)
    pooled.index_add_(0, row, logits * weight[:, None])
    return pooled / total[:, None]


def type_index(labels: Tensor) -> Tensor:
    """A number from 0 to 15 for each row of 0/1 labels [R, 4]."""
    return (labels.long() * _PLACES.to(labels.device)).sum(1)


_TYPE_OF_INDEX = {int(type_index(torch.tensor([labels_of(t)]))): t for t in TYPES}


@dataclass(frozen=True)
class Counts:
    """Summed figures of evaluated rows; `vector` is float64 and may be added over ranks."""

    vector: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, thresholds: Tensor | float = 0.5) -> "Counts":
        """Counts of row logits [R, 4] against 0/1 labels [R, 4].

        The loss is the plain mean binary cross-entropy over the four dimensions, whatever the
        training loss was: so runs with different weights can be compared.
        """
        labels = labels.to(logits.device)
        given = torch.sigmoid(logits) > thresholds
        right = given == labels.bool()
        loss = binary_cross_entropy_with_logits(
            logits.double(), labels.double(), reduction="none"
        ).mean(1)
        figures = [
            torch.tensor([float(len(labels))], dtype=torch.float64, device=logits.device),
            loss.sum()[None],
            (logits.double().sigmoid() - labels.double()).square().mean(1).sum()[None],
            right.double().sum(0),
            right.all(1).double().sum()[None],
            given.double().sum(0),
            (given & right).double().sum(0),
            torch.bincount(type_index(labels), minlength=len(TYPES)).double(),
        ]
        return cls(torch.cat(figures))

    @classmethod
    def none(cls) -> "Counts":
        return cls(torch.zeros(len(_HEAD) + len(TYPES), dtype=torch.float64))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.vector + other.vector)

    def scores(self) -> Scores:
        """rows, loss, brier, and for ei, sn, tf, jp and their mean, acc_total besides:

        - `brier`: mean squared error of the probabilities.
        - `acc_x`: accuracy; `acc_total` has all four right.
        - `majority_x`: what always giving the commonest answer of these very rows would score.
        - `bal_x`: balanced accuracy, the mean of the two poles' recall (of one, where the rows
          have one pole only).
        - `positive_x`, `given_x`: share of rows that have, and that were given, the positive pole.
        """
        values = self.vector.tolist()
        head = dict(zip(_HEAD, values, strict=False))
        types = {_TYPE_OF_INDEX[i]: n for i, n in enumerate(values[len(_HEAD) :])}
        rows = head["rows"]
        scores: Scores = {name: head[name] / rows for name in ("loss", "brier")} | {"rows": rows}
        for d in DIMENSIONS:
            positive = sum(n for t, n in types.items() if d.positive in t)
            scores[f"acc_{d.key}"] = head[f"right_{d.key}"] / rows
            scores[f"majority_{d.key}"] = max(positive, rows - positive) / rows
            hit, given = head[f"hit_{d.key}"], head[f"given_{d.key}"]
            poles = (hit, positive), (rows - positive - given + hit, rows - positive)
            recalls = [right / there for right, there in poles if there]
            scores[f"bal_{d.key}"] = sum(recalls) / len(recalls)
            scores[f"positive_{d.key}"] = positive / rows
            scores[f"given_{d.key}"] = given / rows
        for prefix in ("acc", "majority", "bal"):
            scores[f"{prefix}_mean"] = sum(scores[f"{prefix}_{d.key}"] for d in DIMENSIONS) / 4
        scores["acc_total"] = head["right_all"] / rows
        scores["majority_total"] = max(types.values()) / rows
        return scores
