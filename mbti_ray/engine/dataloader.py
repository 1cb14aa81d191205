"""The data loader: the batches of each optimizer step, collated ahead by a thread.

The batches of a step are a function of the sampler's plan, so working ahead does not change what
is trained on. Knows windows and ranks; must not know the model.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS, Indices, batches_by_length, shard
from mbti_ray.data.collate import Batch, collate, collate_packed
from mbti_ray.data.windows import Windows

# Steps that are collated while an earlier one is trained on.
_PREFETCHED_STEPS = 2


@dataclass(frozen=True)
class StepBatches:
    """One rank's batches of an optimizer step.

    Attributes:
        batches: One for each forward pass, longest windows first; pinned where the device is a GPU.
        members: The window indices of each batch, of which `collate` makes it.
        step_windows: Windows in the whole step, over all ranks.
        tokens: Without padding; `padded` with it.
    """

    batches: list[Batch]
    members: list[Indices]
    collate: Callable[[Indices], Batch]
    step_windows: int
    tokens: int
    padded: int

    def divided(self, parts: int) -> list[Batch]:
        """The batches, each divided into so many smaller ones, but not below one window."""
        if parts == 1:
            return self.batches
        smaller = [np.array_split(m, min(parts, len(m))) for m in self.members]
        return [self.collate(indices) for pieces in smaller for indices in pieces]


@dataclass(frozen=True)
class TokenDataLoader:
    """Loads one rank's batches of token ids.

    Attributes:
        batch_tokens: Maximum of padded tokens in a forward pass.
        packed: Concatenate windows in one row instead of padding them to the longest.
    """

    windows: Windows
    rank: int
    world_size: int
    batch_tokens: int
    pad_id: int
    device: torch.device
    packed: bool = False

    def iterate(self, steps: Sequence[Indices]) -> Iterator[StepBatches]:
        """The batches of each step, in order."""
        with ThreadPoolExecutor(1, "dataloader") as thread:
            pending: list[Future[StepBatches]] = []
            try:
                for step in steps:
                    pending.append(thread.submit(self.load, step))
                    if len(pending) > _PREFETCHED_STEPS:
                        yield pending.pop(0).result()
                while pending:
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    def load(self, step: Indices) -> StepBatches:
        """This rank's batches of one step."""
        windows, lengths = self.windows, self.windows.lengths
        mine, weight = shard(step, rank=self.rank, world_size=self.world_size)

        def collate_members(indices: Indices) -> Batch:
            if self.packed:
                batch = collate_packed(windows, indices, weight=weight)
            else:
                batch = collate(windows, indices, weight=weight, pad_id=self.pad_id)
            return batch.pinned() if self.device.type == "cuda" else batch

        efficient = MIN_EFFICIENT_TOKENS[self.device.type]
        limit = self.batch_tokens
        members = [*batches_by_length(lengths, mine, limit, min_efficient_tokens=efficient)]
        batches = [collate_members(indices) for indices in members]
        tokens = int(lengths[mine].sum())
        padded = sum(batch.input_ids.numel() for batch in batches)
        return StepBatches(batches, members, collate_members, len(step), tokens, padded)
