"""The data loader: the batches of each optimizer step, collated ahead by a thread.

The batches of a step are a function of the sampler's plan, so working ahead does not change what
is trained on. Knows instances and ranks; must not know the model.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS, Indices, batches_by_length, shard
from mbti_ray.data.collate import Batch, Groups, Pass, collate, collate_packed
from mbti_ray.data.instances import Instances
from mbti_ray.engine.worker import Worker

# Steps that are collated while an earlier one is trained on.
_PREFETCHED_STEPS = 2


@dataclass(frozen=True)
class StepBatches:
    """One rank's batches of an optimizer step.

    Attributes:
        batches: One for each backward pass, longest first; pinned where the device is a GPU.
        members: The instances of each batch, of which `collate` makes it.
        step_instances: Instances in the whole step, over all ranks.
        windows: Windows of this rank, and `tokens` of them: without padding; `padded` with it.
    """

    batches: list[Batch]
    members: list[Indices]
    collate: Callable[[Indices], Batch]
    step_instances: int
    windows: int
    tokens: int
    padded: int

    def divided(self, parts: int) -> list[Batch]:
        """The batches, each divided into so many smaller ones, but not below one instance."""
        if parts == 1:
            return self.batches
        smaller = [np.array_split(m, min(parts, len(m))) for m in self.members]
        return [self.collate(instances) for pieces in smaller for instances in pieces]


@dataclass(frozen=True)
class StepLoader:
    """Loads one rank's batches of optimizer steps of an epoch.

    Attributes:
        batch_tokens: Maximum of padded tokens in a forward pass; a backward pass over whole rows
            has about as many.
        packed: Concatenate windows in one row instead of padding them to the longest.
        features: Cached features [N, H] of all windows, to load in place of their token ids.
    """

    instances: Instances
    epoch: int
    worker: Worker
    batch_tokens: int
    pad_id: int
    packed: bool = False
    features: Tensor | None = None

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
        lengths = self.instances.windows.lengths
        if self.instances.per_row:
            # Longest first, so that all ranks get nearly the same tokens.
            step = step[np.argsort(-self._tokens_of(step), kind="stable")]
        mine, weight = shard(step, rank=self.worker.rank, world_size=self.worker.world_size)
        windows, _ = self.instances.windows_of(mine, epoch=self.epoch)
        collate_members = partial(self._collate, weight=weight)
        members = self._divide(mine)
        batches = [collate_members(instances) for instances in members]
        tokens = padded = int(lengths[windows].sum())
        if self.features is None:
            padded = sum(one.input_ids.numel() for batch in batches for one in batch.passes)
        return StepBatches(
            batches, members, collate_members, len(step), len(windows), tokens, padded
        )

    def _divide(self, mine: Indices) -> list[Indices]:
        """The instances of each backward pass."""
        if self.features is not None:
            return [mine]
        if not self.instances.per_row:
            return self._by_length(self.instances.windows.lengths, mine)
        before = np.cumsum(self._tokens_of(mine)) - 1
        cuts = np.flatnonzero(np.diff(before // self.batch_tokens)) + 1
        return [*np.split(mine, cuts)]

    def _tokens_of(self, instances: Indices) -> Indices:
        windows, owner = self.instances.windows_of(instances, epoch=self.epoch)
        lengths = self.instances.windows.lengths[windows]
        return np.bincount(owner, lengths, minlength=len(instances)).astype(np.int64)

    def _collate(self, instances: Indices, *, weight: float) -> Batch:
        windows, owner = self.instances.windows_of(instances, epoch=self.epoch)
        lengths = self.instances.windows.lengths[windows]
        divided, groups = [np.arange(len(windows))], None
        if self.instances.per_row:
            if self.packed or self.features is not None:
                divided = [np.argsort(-lengths, kind="stable")]
            else:
                divided = self._by_length(lengths, divided[0])
            order = np.concatenate(divided)
            groups = Groups.of(owner[order], lengths[order], rows=len(instances))
        batch = Batch(
            passes=tuple(self._load_pass(windows[places]) for places in divided),
            labels=torch.from_numpy(self.instances.targets[instances]),
            weight=torch.full((len(instances),), weight),
            groups=groups,
        )
        is_copied = self.worker.device.type == "cuda" and self.features is None
        return batch.pinned() if is_copied else batch

    def _load_pass(self, members: Indices) -> Pass:
        if self.features is not None:
            return Pass(self.features[torch.from_numpy(members).to(self.features.device)])
        if self.packed:
            return collate_packed(self.instances.windows, members)
        return collate(self.instances.windows, members, pad_id=self.pad_id)

    def _by_length(self, lengths: Indices, members: Indices) -> list[Indices]:
        efficient = MIN_EFFICIENT_TOKENS[self.worker.device.type]
        limit = self.batch_tokens
        return [*batches_by_length(lengths, members, limit, min_efficient_tokens=efficient)]
