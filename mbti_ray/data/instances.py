"""Training instances and the batch sampler: what makes an optimizer step, and which rank does it.

An instance, for which a loss is computed, is a window or a row with its windows. Everything is a
function of the config, the seed and the epoch: no state, so a run can resume at any step, on any
number of ranks. The number of instances in a step is the config's; only the last one of an epoch
may be smaller. Windows of similar length are grouped: a token of padding costs as much as a real
one. Shapes: I instances, N windows, R rows, 4 dimensions (E, N, T, J). Must not know models.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.windows import Windows

Indices = NDArray[np.int64]
# Steps whose windows are sorted together: wide enough for little padding (1.7 % on tweets in steps
# of 32; 64 steps gave 5.8 %), narrow enough that a step mixes other windows in each epoch.
_POOL_STEPS = 256
# A window below this share of the longest one's length is much shorter.
_MUCH_SHORTER = 0.9
# Tokens from which a forward pass is worth its fixed cost, by the kind of device.
MIN_EFFICIENT_TOKENS = {"cpu": 512, "cuda": 8192}


def length_grouped_steps(
    lengths: NDArray[np.int64], step_size: int, *, seed: int, epoch: int
) -> list[Indices]:
    """The window indices of every optimizer step of an epoch, each step sorted longest first."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    steps: list[Indices] = []
    pool = step_size * _POOL_STEPS
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        # Stable: windows of the same length keep their shuffled order.
        members = members[np.argsort(-lengths[members], kind="stable")]
        steps += [members[i : i + step_size] for i in range(0, len(members), step_size)]
    return [steps[i] for i in random.permutation(len(steps))]


def shard(step: Indices, *, rank: int, world_size: int) -> tuple[Indices, float]:
    """A rank's windows of a step, and their weight; all ranks get nearly the same tokens.

    The weight is 0 where the step is smaller than the number of ranks, and this rank computes a
    window only to take part in the gradient exchange.
    """
    mine = step[rank::world_size]
    return (mine, 1.0) if len(mine) else (step[-1:], 0.0)


def batches_by_length(
    lengths: NDArray[np.int64], members: Indices, max_tokens: int, *, min_efficient_tokens: int = 0
) -> Iterator[Indices]:
    """Divide `members` into batches of similar length, each of at most `max_tokens` padded tokens.

    A window longer than that has a batch of its own. The longest come first, so that what does not
    fit into memory fails at once. A batch of at least `min_efficient_tokens` ends where windows get
    much shorter, since padding them would cost more than another forward pass.
    """
    order = members[np.argsort(-lengths[members], kind="stable")]
    sorted_lengths = lengths[order]
    start = 0
    while start < len(order):
        longest = int(sorted_lengths[start])
        end = start + max(1, max_tokens // longest)
        # The first window that is much shorter, but none before the batch is efficient.
        shorter = int(np.searchsorted(-sorted_lengths, -_MUCH_SHORTER * longest, side="right"))
        end = min(end, max(shorter, start + math.ceil(min_efficient_tokens / longest), start + 1))
        yield order[start:end]
        start = end


@dataclass(frozen=True)
class Instances:
    """The training instances of a split: windows, or rows with their windows (`per_row`).

    An epoch trains on at most `sampled` windows of a row (None: all). With `uses_shares`, targets
    are the soft labels of rows that have them.
    """

    windows: Windows
    seed: int = 0
    per_row: bool = False
    sampled: int | None = None
    uses_shares: bool = False

    @classmethod
    def of(cls, config: RunConfig, windows: Windows) -> "Instances":
        return cls(
            windows,
            config.seed,
            config.is_loss_per_person,
            config.fit.posts,
            config.loss.targets == "shares",
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """The row of each instance: [I]."""
        if self.per_row:
            return np.arange(self.windows.row_count, dtype=np.int32)
        return self.windows.row_index

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """From 0 to 1 for each instance: [I, 4]."""
        return self.windows.targets(soft=self.uses_shares)[self.rows]

    def steps(self, step_size: int, *, epoch: int) -> list[Indices]:
        """The instances of every optimizer step of an epoch."""
        # Windows of a row are batched by length when it is loaded: rows need no order.
        lengths = np.zeros(len(self), np.int64) if self.per_row else self.windows.lengths
        return length_grouped_steps(lengths, step_size, seed=self.seed, epoch=epoch)

    def windows_of(self, instances: Indices, *, epoch: int) -> tuple[Indices, Indices]:
        """The windows [N] that an epoch trains on, and the place in `instances` of their owner."""
        if not self.per_row:
            return instances, np.arange(len(instances))
        parts = [self._sample(int(row), epoch) for row in instances]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts])

    def _sample(self, row: int, epoch: int) -> Indices:
        start, end = self.windows.row_starts[row : row + 2]
        count = int(end - start)
        if self.sampled is None or count <= self.sampled:
            return np.arange(start, end)
        random = np.random.default_rng([self.seed, epoch, row])
        chosen: Indices = start + np.sort(random.choice(count, self.sampled, replace=False))
        return chosen
