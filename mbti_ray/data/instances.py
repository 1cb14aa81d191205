"""Training instances: what a loss is computed for. A window by itself, or a row with its windows.

Owns which windows of a row an epoch trains on, and the targets. As in `batch_sampler`, everything
is a function of the config, the seed and the epoch. Must not know ranks, batches or models.

Shapes: I instances, N windows, R rows, 4 dimensions in the order E, N, T, J.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batch_sampler import Indices, length_grouped_steps
from mbti_ray.data.windows import Windows


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
