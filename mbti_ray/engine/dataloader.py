"""The data loader: the batches of each optimizer step, collated ahead by a thread.

The batches of a step are a function of the sampler's plan, so working ahead does not change what
is trained on. Knows windows and ranks; must not know the model.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

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
        step_windows: Windows in the whole step, over all ranks.
        tokens: Tokens of the batches without padding.
        padded: Tokens of the batches with padding.
    """

    batches: list[Batch]
    step_windows: int
    tokens: int
    padded: int


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
        lengths = self.windows.lengths
        members, weight = shard(step, rank=self.rank, world_size=self.world_size)
        efficient = MIN_EFFICIENT_TOKENS[self.device.type]
        batches = [
            collate_packed(self.windows, indices, weight=weight)
            if self.packed
            else collate(self.windows, indices, weight=weight, pad_id=self.pad_id)
            for indices in batches_by_length(
                lengths, members, self.batch_tokens, min_efficient_tokens=efficient
            )
        ]
        if self.device.type == "cuda":
            batches = [batch.pinned() for batch in batches]
        tokens = int(lengths[members].sum())
        padded = sum(batch.input_ids.numel() for batch in batches)
        return StepBatches(batches, len(step), tokens=tokens, padded=padded)
