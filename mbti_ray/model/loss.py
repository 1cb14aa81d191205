"""The training loss: binary cross-entropy with logits over four dimensions, or focal loss.

Knows labels and logits only. Shapes: B windows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbti_ray.config.schema import LossConfig

LossFunction = Callable[[Tensor, Tensor], Tensor]


def positive_weights(config: LossConfig, positive_share: Tensor) -> Tensor | None:
    """The weight of the positive pole in each dimension [4], or None for no weighting.

    Args:
        positive_share: Share of positive labels in the training split [4].
    """
    setting = config.pos_weight
    if setting == "none":
        return None
    if isinstance(setting, tuple):
        return torch.tensor(setting)
    # A split in which one pole is absent has no balance to restore.
    share = positive_share.clamp(1e-3, 1 - 1e-3)
    power = 1.0 if setting == "balanced" else float(setting)
    return ((1 - share) / share) ** power


def build_loss(config: LossConfig, pos_weight: Tensor | None) -> LossFunction:
    """A function of logits [B, 4] and labels [B, 4] that gives the loss of each window [B].

    The loss of a window is the mean over the four dimensions. Focal loss is
    `(1 - p_t)^gamma * bce` (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4),
    with p_t the probability of the true pole; `pos_weight` weighs it as it does the other.
    """

    def weighted_bce(logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=pos_weight
        )

    def bce(logits: Tensor, labels: Tensor) -> Tensor:
        return weighted_bce(logits, labels).mean(1)

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        p_true = torch.exp(-binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        return ((1 - p_true) ** config.gamma * weighted_bce(logits, labels)).mean(1)

    return focal if config.kind == "focal" else bce
