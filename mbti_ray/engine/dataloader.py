"""The batches of an epoch's steps, made one step ahead by a thread, so that nothing waits for them.

A step's batches are a function of the plan, so working ahead changes nothing of what is trained.
Knows windows and ranks; must not know the model.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS, Indices, share_of
from mbti_ray.data.collate import Batch, collate, pack
from mbti_ray.data.windows import Windows

# Steps whose batches are made while an earlier one is trained on.
_AHEAD = 2


@dataclass(frozen=True)
class Portion:
    """One rank's part of an optimiser step, as tensors.

    Attributes:
        batches: One for each forward pass, longest windows first; pinned where the device is a GPU.
        step_windows: Windows in the whole step, over all ranks.
        tokens: Real tokens of the batches.
        padded: Tokens of the batches with their padding.
    """

    batches: list[Batch]
    step_windows: int
    tokens: int
    padded: int


@dataclass(frozen=True)
class Feed:
    """Makes portions for one rank.

    Attributes:
        batch_tokens: Padded tokens of a forward pass at the most.
        packed: One behind the other, instead of padded to the longest.
    """

    windows: Windows
    rank: int
    world_size: int
    batch_tokens: int
    pad_id: int
    device: torch.device
    packed: bool = False

    def portions(self, steps: Sequence[Indices]) -> Iterator[Portion]:
        """The portion of each step, in order."""
        with ThreadPoolExecutor(1, "feed") as thread:
            waiting: list[Future[Portion]] = []
            try:
                for step in steps:
                    waiting.append(thread.submit(self.portion, step))
                    if len(waiting) > _AHEAD:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def portion(self, step: Indices) -> Portion:
        """This rank's part of one step."""
        share = share_of(
            step,
            self.windows.lengths,
            rank=self.rank,
            world_size=self.world_size,
            batch_tokens=self.batch_tokens,
            min_efficient_tokens=MIN_EFFICIENT_TOKENS[self.device.type],
        )
        batches = [
            pack(self.windows, indices, weight=share.weight)
            if self.packed
            else collate(self.windows, indices, weight=share.weight, pad_id=self.pad_id)
            for indices in share.batches
        ]
        if self.device.type == "cuda":
            batches = [batch.pinned() for batch in batches]
        return Portion(
            batches,
            share.step_windows,
            tokens=sum(int(self.windows.lengths[i].sum()) for i in share.batches),
            padded=sum(batch.input_ids.numel() for batch in batches),
        )
