"""Inference over a split: every row exactly once, on any rank, the result known to all ranks.

Rows, not windows, are sharded over the ranks, so that all windows of a row are pooled on one rank.
No rank waits for another before the all-reduce, so ranks may have different numbers of rows.

Shapes: R rows, N windows, M of them on this rank, H hidden size, 4 dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS, Indices, batches_by_length
from mbti_ray.data.collate import collate
from mbti_ray.data.windows import Windows
from mbti_ray.engine.out_of_memory import free_cached_memory, out_of_memory, unless_out_of_memory
from mbti_ray.engine.precision import autocast
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel, pool_rows
from mbti_ray.typology import DIMENSIONS


@dataclass(frozen=True)
class Evaluator:
    """Runs a model in evaluation mode over windows, longest first.

    Batches of at most `batch_tokens` padded tokens; those that do not fit into memory are divided.
    """

    model: MBTIModel
    dtype: torch.dtype | None
    device: torch.device
    batch_tokens: int
    pad_id: int

    def outputs(self, windows: Windows, members: Indices) -> Tensor:
        """The model's outputs [M, W] of the windows, float32, on the device."""
        outputs = torch.empty(len(members), self.model.output_size, device=self.device)
        self._encode(windows, members, outputs, self.model.read_features)
        return outputs

    def features(self, windows: Windows, members: Indices, output: Tensor) -> None:
        """Write the pooled encoder output of the windows to [M, H] float32, on any device."""
        self._encode(windows, members, output, lambda features: features)

    @torch.inference_mode()
    def _encode(
        self, windows: Windows, members: Indices, output: Tensor, finish: Callable[[Tensor], Tensor]
    ) -> None:
        self.model.eval()
        position = np.full(len(windows), -1, np.int64)
        position[members] = np.arange(len(members))
        on_device = partial(Tensor.to, device=self.device, non_blocking=True)

        def write(indices: Indices) -> bool:
            one = collate(windows, indices, pad_id=self.pad_id).map(on_device)
            with autocast(self.device, self.dtype):
                features = self.model.features(one.input_ids, one.attention_mask)
            rows = torch.from_numpy(position[indices]).to(output.device)
            output[rows] = finish(features.float()).to(output.device)
            return True

        efficient = MIN_EFFICIENT_TOKENS[self.device.type]
        lengths, limit = windows.lengths, self.batch_tokens
        pending = [*batches_by_length(lengths, members, limit, min_efficient_tokens=efficient)]
        while pending:
            indices = pending.pop(0)
            if unless_out_of_memory(partial(write, indices)) is None:
                free_cached_memory(self.device)
                if len(indices) == 1:
                    raise out_of_memory("window", windows.lengths[indices[0]], self.device)
                pending[:0] = np.array_split(indices, 2)


def predict_rows(
    predict: Callable[[Windows, Indices], Tensor],
    model: MBTIModel,
    windows: Windows,
    worker: Worker,
) -> Tensor:
    """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank.

    `predict` gives the outputs [M, W] of some windows, as `Evaluator.outputs` does.
    """
    logits = torch.zeros(windows.row_count, len(DIMENSIONS), dtype=torch.float64)
    rows = np.arange(worker.rank, windows.row_count, worker.world_size)
    if len(rows):
        position = np.full(windows.row_count, -1, np.int64)
        position[rows] = np.arange(len(rows))
        members = np.flatnonzero(position[windows.row_index] >= 0)
        owner, lengths = position[windows.row_index[members]], windows.lengths[members]
        pooled = pool_rows(model.pool, predict(windows, members), owner, lengths)
        logits[torch.from_numpy(rows)] = pooled.double().cpu()
    # The other ranks' rows are zero here, and adding zeros is exact.
    return worker.all_reduce(logits)
