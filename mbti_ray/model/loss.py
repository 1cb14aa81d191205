"""The training loss: binary cross-entropy with logits over four dimensions, or focal loss.

Must not know more than labels and logits. Shapes: B windows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from mbti_ray.config.loss_section import LossConfig
from mbti_ray.typology import POSITIVE_POLES

LossFunction = Callable[[Tensor, Tensor], Tensor]


def positive_weights(config: LossConfig, positive_share: Tensor) -> Tensor | None:
    """The weight of the positive pole of each dimension [4], or None for no weighting.

    `positive_share` [4] is that of positive labels among the windows of the training split.
    """
    # Bounded, because a split may lack one of the poles.
    share = positive_share.clamp(1e-3, 1 - 1e-3)
    balanced = (1 - share) / share
    setting = config.pos_weight
    if isinstance(setting, tuple):
        weights = torch.tensor(setting)
    else:
        exponent = {"none": 0.0, "balanced": 1.0}[setting] if isinstance(setting, str) else setting
        weights = balanced**exponent
    for place, pole in enumerate(POSITIVE_POLES):
        power, weight = getattr(config.power, pole), getattr(config.weight, pole)
        if weight is not None:
            weights[place] = weight
        elif power is not None:
            weights[place] = balanced[place] ** power
    return None if torch.equal(weights, torch.ones(4)) else weights


def build_loss(config: LossConfig, pos_weight: Tensor | None) -> LossFunction:
    """A function from logits [B, 4] and labels [B, 4] to the loss of each window [B].

    The loss of a window is the mean over the four dimensions. Focal loss is
    `(1 - p_t)^gamma * bce` (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4),
    with p_t the probability of the true pole; `pos_weight` applies to its bce.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        bce = binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=pos_weight
        )
        if config.kind == "bce":
            return bce.mean(1)
        # (1 - p_t)^gamma by its logarithm: the power itself has an infinite slope at p_t = 1.
        missed = labels * torch.exp(config.gamma * logsigmoid(-logits))
        missed = missed + (1 - labels) * torch.exp(config.gamma * logsigmoid(logits))
        return (missed * bce).mean(1)

    return loss
