"""Which windows make an optimiser step, which rank reads which of them, and the tensors.

Everything here is a function of the config, the seed and the epoch: no state, so a run can
continue at any step, on any number of ranks, and every rank knows what the others do.

Windows of similar length are put together, because every token of padding is paid for like a
real one. The number of windows in an optimiser step is always the config's, whatever the number
of ranks; only the last step of an epoch may be smaller.

Legend: B windows of a batch, T tokens of its longest window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbti_ray.data.windows import Windows

Indices = NDArray[np.int64]

# Steps whose windows are sorted together: wide enough for little padding, narrow enough that a
# step's company changes from epoch to epoch.
_POOL_STEPS = 64


@dataclass(frozen=True)
class Batch:
    """The tensors of one forward pass.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: bool [B, T], true where a token is real.
        labels: float32 [B, 4] in the order E, N, T, J.
        weight: float32 [B]; 0 for a window that only keeps a rank company in a step.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


@dataclass(frozen=True)
class Share:
    """One rank's part of an optimiser step.

    Attributes:
        batches: Window indices of each forward pass, longest first.
        weight: 1, or 0 when the step is smaller than the number of ranks and this rank only
            takes part in the gradient exchange.
        step_windows: Windows in the whole step, over all ranks.
    """

    batches: list[Indices]
    weight: float
    step_windows: int


def plan_epoch(
    lengths: NDArray[np.int64], step_size: int, *, seed: int, epoch: int
) -> list[Indices]:
    """The window indices of every optimiser step of an epoch, each step sorted longest first."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    steps: list[Indices] = []
    pool = step_size * _POOL_STEPS
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        # Stable: windows of one length keep their shuffled order.
        members = members[np.argsort(-lengths[members], kind="stable")]
        steps += [members[i : i + step_size] for i in range(0, len(members), step_size)]
    return [steps[i] for i in random.permutation(len(steps))]


def share_of(step: Indices, *, rank: int, world_size: int, batch_size: int) -> Share:
    """The part of a step that a rank computes; all ranks get nearly the same tokens."""
    mine, weight = step[rank::world_size], 1.0
    if not len(mine):
        mine, weight = step[-1:], 0.0
    batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
    return Share(batches, weight, len(step))


def collate(windows: Windows, indices: Indices, *, weight: float = 1.0, pad_id: int = 0) -> Batch:
    """The tensors of the given windows, padded to the longest of them."""
    lengths = windows.lengths[indices]
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    starts = windows.offsets[indices]
    ids[mask] = np.concatenate(
        [windows.ids[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    )
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        labels=torch.from_numpy(windows.labels[windows.row[indices]].astype(np.float32)),
        weight=torch.full((len(indices),), weight),
    )


def batches_by_length(
    lengths: NDArray[np.int64], members: Indices, max_tokens: int
) -> Iterator[Indices]:
    """Cut `members` into batches of similar length with at most `max_tokens` padded tokens each.

    A window longer than that has a batch of its own. For evaluation and serving, where the order
    does not matter.
    """
    order = members[np.argsort(-lengths[members], kind="stable")]
    start = 0
    while start < len(order):
        count = max(1, max_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count
