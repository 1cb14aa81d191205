"""Collation: the tensors of a batch of windows, padded to the longest or packed into one row.

Knows windows; must not know steps, ranks or models.

Legend: B windows of a batch, T tokens of its longest window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.windows import TokenIds, Windows


@dataclass(frozen=True)
class Packing:
    """Where each of B windows lies in one row of T tokens without padding.

    Attributes:
        lengths: Tokens of each window, longest first; kept on the host, so that reading them does
            not wait for the GPU.
        positions: int64 [1, T], from 0 in each window.
        owner: int64 [T], the index of the window that a token belongs to.
        bounds: int32 [B + 1], the offset of each window, and the end.
    """

    lengths: tuple[int, ...]
    positions: Tensor
    owner: Tensor
    bounds: Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...]) -> "Packing":
        count = torch.tensor(lengths)
        bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        bounds[1:] = count.cumsum(0)
        owner = torch.repeat_interleave(torch.arange(len(lengths)), count)
        positions = torch.arange(len(owner)) - bounds[owner].long()
        return cls(lengths, positions[None], owner, bounds)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Packing":
        tensors = change(self.positions), change(self.owner), change(self.bounds)
        return Packing(self.lengths, *tensors)


@dataclass(frozen=True)
class Batch:
    """The tensors of one forward pass.

    Attributes:
        input_ids: int64 [B, T]; packed, [1, T] with T the tokens of all windows.
        attention_mask: bool [B, T], True where a token is not padding; None where none is, which
            lets attention use its fastest kernel.
        labels: float32 [B, 4] in the order E, N, T, J.
        weight: float32 [B]; 0 for a window that only lets a rank take part in a step.
        packing: Where the windows lie in the one row; None where each has a row of its own.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor
    weight: Tensor
    packing: Packing | None = None

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same in page-locked memory, from which copies to a GPU do not block."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        there = {name: value for name, value in vars(self).items() if value is not None}
        packing = there.pop("packing", None)
        moved = {name: change(tensor) for name, tensor in there.items()}
        return replace(self, **moved, packing=packing and packing.map(change))


def collate_packed(windows: Windows, indices: Indices, *, weight: float = 1.0) -> Batch:
    """The tensors of the given windows, concatenated into one row."""
    lengths, starts = windows.lengths[indices].tolist(), windows.offsets[indices]
    ids = np.concatenate([windows.ids[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    return Batch(
        input_ids=torch.from_numpy(ids.astype(np.int64))[None],
        attention_mask=None,
        labels=torch.from_numpy(windows.labels[windows.row_index[indices]].astype(np.float32)),
        weight=torch.full((len(indices),), weight),
        packing=Packing.of(tuple(lengths)),
    )


def collate(windows: Windows, indices: Indices, *, weight: float = 1.0, pad_id: int = 0) -> Batch:
    """The tensors of the given windows, padded to the longest of them."""
    bounds = zip(windows.offsets[indices], windows.lengths[indices], strict=True)
    ids, mask = pad([windows.ids[start : start + n] for start, n in bounds], pad_id=pad_id)
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=torch.from_numpy(windows.labels[windows.row_index[indices]].astype(np.float32)),
        weight=torch.full((len(indices),), weight),
    )


def pad(
    windows: Sequence[TokenIds | NDArray[np.int32]], *, pad_id: int
) -> tuple[Tensor, Tensor | None]:
    """Ids int64 [B, T] of windows padded to the longest, and their mask (None: no padding)."""
    lengths = np.fromiter((len(w) for w in windows), np.int64, len(windows))
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate([np.asarray(w, np.int64) for w in windows])
    return torch.from_numpy(ids), None if mask.all() else torch.from_numpy(mask)
