"""From the logits of windows to the logits of the rows that they were cut from.

Shapes: N windows, R rows, 4 dimensions in the order E, N, T, J.
"""

import torch
from torch import Tensor


def pool_rows(logits: Tensor, row: Tensor, tokens: Tensor, row_count: int) -> Tensor:
    """Row logits [R, 4]: the mean of a row's window logits [N, 4], weighted by their tokens [N].

    Args:
        row: The row of each window, [N].
    """
    weight = tokens.to(logits.dtype)
    total = torch.zeros(row_count, dtype=logits.dtype, device=logits.device)
    total.index_add_(0, row, weight)
    pooled = torch.zeros(row_count, logits.shape[1], dtype=logits.dtype, device=logits.device)
    pooled.index_add_(0, row, logits * weight[:, None])
    return pooled / total[:, None]
