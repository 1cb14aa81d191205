"""Attention for training on a CPU, where torch's own is slow with dropout, and in bfloat16.

With dropout torch computes it in float32 and draws 32 random bits for each weight; without, the
backward pass of its flash kernel is slow in bfloat16. Knows attention only.

Legend: B windows, A attention heads, T tokens, D dimensions of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mbti_ray.model.cpu_dropout import drop


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """[B, A, T, D]: torch's `scaled_dot_product_attention`, in the faster way for the device.

    The mask is bool, broadcast to [B, A, T, T]; True where a token may be attended to.
    """
    is_slow = query.dtype == torch.bfloat16 or (dropout and query.dtype == torch.float32)
    if query.is_cuda or not is_slow or not torch.is_grad_enabled():
        return scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-2, -1)
    if mask is not None:
        # Not -inf: a token that may attend to nothing, as padding beyond a sliding window, is NaN.
        lowest = torch.finfo(scores.dtype).min
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, lowest)
    weights = scores.softmax(-1)
    return (drop(weights, dropout) if dropout else weights) @ value
