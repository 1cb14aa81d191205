"""The row logits of a split: every row read once, on whichever rank, and known to all.

Rows, not windows, are dealt to the ranks, so a row's windows meet on one rank and are pooled
there. No rank waits for another before the exchange, so they need not have equally many rows.
"""

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.batches import Indices, batches_by_length, collate
from mbti_ray.data.windows import Windows
from mbti_ray.engine.precision import Precision
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.scores.counts import pool_rows
from mbti_ray.typology import DIMENSIONS


def read_rows(
    model: MBTIModel,
    windows: Windows,
    worker: Worker,
    precision: Precision,
    *,
    batch_tokens: int,
    pad_id: int,
) -> Tensor:
    """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank.

    Args:
        model: Unwrapped; it is left in evaluation mode.
        batch_tokens: Padded tokens of a forward pass at the most.
    """
    logits = torch.zeros(windows.row_count, len(DIMENSIONS), dtype=torch.float64)
    rows = np.arange(worker.rank, windows.row_count, worker.world_size)
    if len(rows):
        logits[torch.from_numpy(rows)] = (
            row_logits(
                model,
                windows,
                rows,
                worker.device,
                precision,
                batch_tokens=batch_tokens,
                pad_id=pad_id,
            )
            .double()
            .cpu()
        )
    # The other ranks' rows are zero here, and a sum of numbers and zeros is exact.
    return worker.reduce(logits)


@torch.inference_mode()
def row_logits(
    model: MBTIModel,
    windows: Windows,
    rows: Indices,
    device: torch.device,
    precision: Precision,
    *,
    batch_tokens: int,
    pad_id: int,
) -> Tensor:
    """Logits [len(rows), 4] of the given rows, float32, on the device."""
    model.eval()
    local = np.full(windows.row_count, -1, np.int64)
    local[rows] = np.arange(len(rows))
    members = np.flatnonzero(local[windows.row] >= 0)
    logits = torch.empty(len(windows), 4, device=device)
    for indices in batches_by_length(windows.lengths, members, batch_tokens):
        batch = collate(windows, indices, pad_id=pad_id).to(device)
        with precision.autocast(device):
            output = model(batch.input_ids, batch.attention_mask)
        logits[torch.from_numpy(indices).to(device)] = output.float()
    return pool_rows(
        logits[torch.from_numpy(members).to(device)],
        torch.from_numpy(local[windows.row[members]]).to(device),
        torch.from_numpy(windows.lengths[members]).to(device),
        len(rows),
    )
