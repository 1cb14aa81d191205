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
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mbti_ray.data.collate import Packing
from mbti_ray.model.cpu_attention import attend

# The name under which it is registered with transformers.
PACKED_ATTENTION = "mbti_packed"
_MAX_HEAD_SIZE = 256


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: [1, A, T, D] each, to [1, T, A, D].

    Without a packing, each row is a window, and this is transformers' own attention. A token
    attends to those that are fewer than `sliding_window` positions away; None: to all.
    """
    if packing is None:
        is_plain = query.shape[1] == key.shape[1] and not getattr(module, "is_causal", False)
        if is_plain and (attention_mask is None or attention_mask.dtype == torch.bool):
            own = attend(query, key, value, attention_mask, dropout=dropout, scale=scaling)
            return own.transpose(1, 2).contiguous(), None
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return padded
    if query.is_cuda and not varlen_problem(query.device, query.dtype, query.shape[-1]):
        # Imported late: only a GPU needs it.
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
        longest, bounds = packing.lengths[0], packing.bounds
        # Inclusive on both sides; -1 is no limit.
        window = (sliding_window or 0) - 1
        attended = varlen_attn(
            q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(window, window)
        )
        assert isinstance(attended, Tensor)
    else:
        options = {"dropout": dropout, "scale": scaling}
        attended = _by_length(query, key, value, packing, sliding_window, options)
    return attended[None], None


def varlen_problem(device: torch.device, dtype: torch.dtype | None, head_size: int) -> str | None:
    """Why torch's variable-length attention cannot run on a GPU; None where it can."""
    if dtype not in (torch.float16, torch.bfloat16):
        return "it computes in half precision only"
    if (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0"
    return f"heads of {head_size} dimensions exceed 256" if head_size > _MAX_HEAD_SIZE else None


def _by_length(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, window: int | None, options: Any
) -> Tensor:
    """[T, A, D]: one product for each group of windows of equal length."""
    parts, start = [], 0
    for length, group in groupby(packing.lengths):
        count = len(list(group))
        end = start + count * length
        q, k, v = (
            t[0, :, start:end].view(t.shape[1], count, length, t.shape[3]).transpose(0, 1)
            for t in (query, key, value)
        )
        mask = None
        if window is not None and length > window:
            at = torch.arange(length, device=query.device)
            mask = (at[:, None] - at).abs() < window
        attended = attend(q, k, v, mask, **options)
        parts.append(attended.transpose(1, 2).flatten(0, 1))
        start = end
    return torch.cat(parts)


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
# Without it transformers would make no masks for padded rows.
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
