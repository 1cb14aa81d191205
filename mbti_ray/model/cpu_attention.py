"""Attention for training in bfloat16 on a CPU, where torch's own is no faster than in float32.

With dropout torch computes it in float32 and draws 32 random bits for each weight; without, the
backward pass of its flash kernel is slow. Knows attention only.

Legend: B windows, A attention heads, T tokens, D dimensions of a head.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_LEVELS = 2**16


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

    Args:
        mask: bool, broadcast to [B, A, T, T]; True where a token may be attended to.
    """
    if query.is_cuda or query.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-2, -1)
    if mask is not None:
        # Not -inf: a token that may attend to nothing, as padding beyond a sliding window, is NaN.
        lowest = torch.finfo(scores.dtype).min
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, lowest)
    weights = scores.softmax(-1)
    return (_drop(weights, dropout) if dropout else weights) @ value


def _drop(weights: Tensor, dropout: float) -> Tensor:
    """Dropout with 16 random bits an element, of which a draw has 64."""
    cut = round(dropout * _LEVELS)
    draws = torch.empty(-(-weights.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: weights.numel()].view(weights.shape)
    kept = (bits >= cut - _LEVELS // 2).to(weights.dtype)
    return weights * (kept * (_LEVELS / (_LEVELS - cut)))
