"""Reading a split: every row once, on whichever rank, and known to all.

Rows, not windows, are dealt to the ranks, so a row's windows meet on one rank and are pooled
there. No rank waits for another before the exchange, so they need not have equally many rows.

Shapes: R rows, N windows, M of them of this rank, H hidden size, 4 dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS, Indices, batches_by_length
from mbti_ray.data.collate import Batch, collate
from mbti_ray.data.windows import Windows
from mbti_ray.engine.precision import Precision
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.window_pooling import pool_rows
from mbti_ray.typology import DIMENSIONS


@dataclass(frozen=True)
class Reader:
    """Reads windows with a model in evaluation mode, longest first.

    Attributes:
        batch_tokens: Padded tokens of a forward pass at the most.
    """

    model: MBTIModel
    precision: Precision
    device: torch.device
    batch_tokens: int
    pad_id: int

    def logits(self, windows: Windows, members: Indices) -> Tensor:
        """Logits [M, 4] of the windows, float32, on the device."""
        return self._read(
            windows, members, lambda b: self.model(b.input_ids, b.attention_mask), len(DIMENSIONS)
        )

    def features(self, windows: Windows, members: Indices) -> Tensor:
        """What the encoder makes of the windows [M, H], float32, on the device."""
        return self._read(
            windows,
            members,
            lambda b: self.model.features(b.input_ids, b.attention_mask),
            self.model.heads.in_features,
        )

    @torch.inference_mode()
    def _read(
        self, windows: Windows, members: Indices, of: Callable[[Batch], Tensor], width: int
    ) -> Tensor:
        self.model.eval()
        place = np.full(len(windows), -1, np.int64)
        place[members] = np.arange(len(members))
        read = torch.empty(len(members), width, device=self.device)
        worth = MIN_EFFICIENT_TOKENS[self.device.type]
        for indices in batches_by_length(
            windows.lengths, members, self.batch_tokens, min_efficient_tokens=worth
        ):
            batch = collate(windows, indices, pad_id=self.pad_id).to(self.device)
            with self.precision.autocast(self.device):
                output = of(batch)
            read[torch.from_numpy(place[indices]).to(self.device)] = output.float()
        return read


Read = Callable[[Windows, Indices], Tensor]


def read_rows(read: Read, windows: Windows, worker: Worker) -> Tensor:
    """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank.

    Args:
        read: Gives the logits [M, 4] of some windows, such as `Reader.logits`.
    """
    logits = torch.zeros(windows.row_count, len(DIMENSIONS), dtype=torch.float64)
    rows = np.arange(worker.rank, windows.row_count, worker.world_size)
    if len(rows):
        pooled = _pooled(read, windows, rows, worker.device)
        logits[torch.from_numpy(rows)] = pooled.double().cpu()
    # The other ranks' rows are zero here, and a sum of numbers and zeros is exact.
    return worker.reduce(logits)


def read_features(reader: Reader, windows: Windows, worker: Worker) -> Tensor:
    """Features [N, H] of all windows of a split, float32 on the device, the same on every rank."""
    features = torch.zeros(len(windows), reader.model.heads.in_features, device=worker.device)
    members = np.arange(worker.rank, len(windows), worker.world_size)
    if len(members):
        features[members] = reader.features(windows, members)
    return worker.reduce(features)


def _pooled(read: Read, windows: Windows, rows: Indices, device: torch.device) -> Tensor:
    """Logits [len(rows), 4] of some rows: those of their windows, pooled."""
    local = np.full(windows.row_count, -1, np.int64)
    local[rows] = np.arange(len(rows))
    members = np.flatnonzero(local[windows.row_index] >= 0)
    return pool_rows(
        read(windows, members),
        torch.from_numpy(local[windows.row_index[members]]).to(device),
        torch.from_numpy(windows.lengths[members]).to(device),
        len(rows),
    )
