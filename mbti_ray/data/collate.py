"""Collation: the tensors of forward passes over windows, padded to the longest or packed into one
row, and which windows belong together. Must not know steps, ranks or models.

Legend: B windows of a pass, T tokens of its longest window; N windows of R rows; I instances (see
`instances`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.windows import TokenIds, Windows


class _Tensors:
    """A record of tensors, and of records and tuples of them."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""
        return type(self)(*(_map(value, change) for value in vars(self).values()))


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, _Tensors):
        return value.map(change)
    return tuple(_map(one, change) for one in value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Packing(_Tensors):
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


@dataclass(frozen=True)
class Pass(_Tensors):
    """The tensors of one forward pass of the encoder.

    Attributes:
        input_ids: int64 [B, T]; packed, [1, T] with T the tokens of all windows. Where the encoder
            is frozen, its cached features float32 [B, H] instead.
        attention_mask: bool [B, T], True where a token is not padding; None where none is, which
            lets attention use its fastest kernel.
        packing: Where the windows lie in the one row; None where each has a row of its own.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    packing: Packing | None = None


@dataclass(frozen=True)
class Groups(_Tensors):
    """Which of N windows belong to which of R rows of at most M windows.

    Attributes:
        slots: int64 [N], the place of each window in a table of R x M.
        tokens: float32 [R, M], the tokens of each window; 0 where a row has fewer windows.
    """

    slots: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, row: Indices, lengths: Indices, *, rows: int) -> "Groups":
        """From the row [N] and the tokens [N] of windows in any order."""
        counts = np.bincount(row, minlength=rows)
        order = np.argsort(row, kind="stable")
        place = np.empty(len(row), np.int64)
        place[order] = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        tokens = np.zeros((rows, int(counts.max())), np.float32)
        tokens[row, place] = lengths
        slots = row.astype(np.int64) * tokens.shape[1] + place
        return cls(torch.from_numpy(slots), torch.from_numpy(tokens))

    def table(self, values: Tensor) -> Tensor:
        """Values [N, W] of the windows as a table [R, M, W], with zeros where there is none."""
        empty = values.new_zeros(self.tokens.numel(), values.shape[1])
        # Unlike index_add, the same to the last bit in every run, on a GPU too.
        return empty.index_copy(0, self.slots, values).view(*self.tokens.shape, -1)


@dataclass(frozen=True)
class Batch(_Tensors):
    """What one backward pass needs: I instances, their windows in one or more forward passes.

    Attributes:
        passes: Of the windows, longest first.
        labels: float32 [I, 4] in the order E, N, T, J, from 0 to 1.
        weight: float32 [I]; 0 for an instance that only lets a rank take part in a step.
        groups: The windows of each instance; None where each window is one.
    """

    passes: tuple[Pass, ...]
    labels: Tensor
    weight: Tensor
    groups: Groups | None = None

    def to(self, device: torch.device) -> "Batch":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same in page-locked memory, from which copies to a GPU do not block."""
        return self.map(Tensor.pin_memory)


def collate_packed(windows: Windows, indices: Indices) -> Pass:
    """The given windows, concatenated into one row."""
    lengths, starts = windows.lengths[indices].tolist(), windows.offsets[indices]
    ids = np.concatenate([windows.ids[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    input_ids = torch.from_numpy(ids.astype(np.int64))[None]
    return Pass(input_ids, packing=Packing.of(tuple(lengths)))


def collate(windows: Windows, indices: Indices, *, pad_id: int = 0) -> Pass:
    """The given windows, padded to the longest of them."""
    bounds = zip(windows.offsets[indices], windows.lengths[indices], strict=True)
    return Pass(*pad([windows.ids[start : start + n] for start, n in bounds], pad_id=pad_id))


def pad(
    windows: Sequence[TokenIds | NDArray[np.int32]], *, pad_id: int
) -> tuple[Tensor, Tensor | None]:
    """Ids int64 [B, T] of windows padded to the longest, and their mask (None: no padding)."""
    lengths = np.fromiter((len(w) for w in windows), np.int64, len(windows))
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate([np.asarray(w, np.int64) for w in windows])
    return torch.from_numpy(ids), None if mask.all() else torch.from_numpy(mask)
