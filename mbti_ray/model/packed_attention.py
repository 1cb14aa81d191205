"""Attention over windows that are packed into one row, without padding.

On a GPU in half precision it is torch's variable-length attention (Dao 2023, FlashAttention-2),
which has no dropout: the encoder's attention dropout is off there. Elsewhere windows of equal
length, which are adjacent in a batch sorted by length, are attended to in one product, exactly as
in a padded batch. Knows attention only; where the windows lie is in a `Packing`.

Legend: T tokens of the row, A attention heads, D dimensions of a head.
"""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mbti_ray.data.collate import Packing

# The name under which it is registered with transformers.
PACKED_ATTENTION = "mbti_packed"
_HALF = (torch.float16, torch.bfloat16)


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [1, A, T, D] each, to [1, T, A, D].

    Without a packing, each row is a window, and this is transformers' own attention.
    """
    if packing is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return padded
    if query.is_cuda and query.dtype in _HALF:
        return _varlen(query, key, value, packing, scaling)[None], None
    return _by_length(query, key, value, packing, dropout, scaling)[None], None


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None
) -> Tensor:
    # Imported late: not every supported torch has it, and only a GPU needs it.
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    longest, bounds = packing.lengths[0], packing.bounds
    attended = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling)
    assert isinstance(attended, Tensor)
    return attended


def _by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """[T, A, D]: one product for each group of windows of equal length."""
    parts, start = [], 0
    for length, run in groupby(packing.lengths):
        count = len(list(run))
        end = start + count * length
        q, k, v = (
            t[0, :, start:end].view(t.shape[1], count, length, t.shape[3]).transpose(0, 1)
            for t in (query, key, value)
        )
        attended = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        parts.append(attended.transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(parts)


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
