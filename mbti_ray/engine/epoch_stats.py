"""Epoch statistics: training loss and accuracy, time, and what the run was asked to do meanwhile.

Steps leave their sums on the device; a sync every few steps waits for the GPU and lets the ranks
learn of each other. Knows progress and the worker; must not know the model.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.instances import Instances
from mbti_ray.engine.checkpoint import Progress
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import RunError
from mbti_ray.scores.metrics import Scores
from mbti_ray.typology import DIMENSIONS

# Rows that the message about a diverged step lists.
_LISTED_ROWS = 10


@dataclass
class EpochStats:
    """Accumulates the statistics of one epoch into `progress`; built for each epoch."""

    config: RunConfig
    data: Dataset
    instances: Instances
    worker: Worker
    progress: Progress
    timer: ThroughputTimer

    def __post_init__(self) -> None:
        self._steps: list[Indices] = []
        self._sums: list[Tensor] = []
        self._seconds_before = self.progress.seconds
        self._started = time.monotonic()
        self.timer.reset()

    def add(self, step: Indices, sums: Tensor) -> None:
        """Add a finished step; its sums [6] of this rank may still be on the device."""
        self._steps.append(step)
        self._sums.append(sums)

    def sync(self, total_steps: int) -> Interruption | None:
        """Sum the steps since the last sync over the ranks, so that all ranks decide alike.

        Returns what any of the ranks was asked to do. Raises RunError where the loss of more steps
        than `fit.skip_nonfinite` allows is not finite.
        """
        asked = self.worker.poll_interruption()
        flags = torch.tensor([float(asked == kind) for kind in Interruption]).double()
        table = torch.stack(self._sums).double().cpu()
        # On every rank, or events would pile up on those that report nothing.
        self.timer.read_events()
        summed = self.worker.all_reduce(torch.cat([table.flatten(), flags]))
        sums, flags = summed[: -len(flags)].view_as(table), summed[-len(flags) :]
        first = self.progress.step - len(self._steps) + 1
        for number, (step, row) in enumerate(zip(self._steps, sums.tolist(), strict=True), first):
            self._count(number, step, row)
        self._steps, self._sums = [], []
        self.progress.seconds += time.monotonic() - self._started
        self.restart_clock()
        self._show_progress(total_steps)
        kinds = [kind for kind, flag in zip(Interruption, flags.tolist(), strict=True) if flag]
        return kinds[-1] if kinds else None

    def restart_clock(self) -> None:
        """Exclude the time since the last sync from the training time."""
        self._started = time.monotonic()

    def scores(self) -> Scores:
        """Running means over the epoch's instances, with dropout on and the weights changing.

        loss; acc_x, and majority_x, the accuracy of the majority class on the same instances.
        """
        loss, *correct = (v / max(self.progress.windows, 1) for v in self.progress.sums)
        positive = (self.instances.targets > 0.5).mean(0).tolist()
        means = {"acc": correct, "majority": [max(p, 1 - p) for p in positive]}
        scores: Scores = {"loss": loss}
        for name, values in means.items():
            scores |= {f"{name}_{d.key}": v for d, v in zip(DIMENSIONS, values, strict=True)}
            scores[f"{name}_mean"] = sum(values) / len(values)
        return scores

    def speed(self) -> dict[str, float]:
        """The throughput of the epoch so far; see `ThroughputTimer.read`."""
        return self.timer.read(self.progress.seconds - self._seconds_before)

    def _count(self, number: int, step: Indices, row: list[float]) -> None:
        progress, (*sums, skipped) = self.progress, row
        progress.skipped += skipped > 0
        if math.isfinite(sums[0]):
            progress.sums = [a + b for a, b in zip(progress.sums, sums, strict=True)]
            progress.windows += len(step)
            return
        progress.nonfinite += 1
        if progress.nonfinite > self.config.fit.skip_nonfinite:
            raise RunError(self._diverged(number, step, sums[0]))

    def _diverged(self, number: int, step: Indices, loss: float) -> str:
        all_numbers = self.instances.windows.rows.column("number").to_numpy()
        numbers = all_numbers[self.instances.rows[step]]
        rows = ", ".join(str(n) for n in sorted({*numbers.tolist()})[:_LISTED_ROWS])
        return (
            f"training diverged: the loss is {loss} in step {number} (epoch "
            f"{self.progress.epoch + 1}), on rows {rows} of {self.data.info.source}; try a "
            f"lower optim.lr (now {self.config.optim.lr}), more optim.warmup_steps, "
            "fit.precision=32, or fit.skip_nonfinite=1 to skip such steps"
        )

    def _show_progress(self, total_steps: int) -> None:
        progress = self.progress
        if self.worker.rank == 0 and progress.windows:
            loss, speed = progress.sums[0] / progress.windows, self.speed()
            note = (
                f"epoch {progress.epoch + 1} loss {loss:.4f} {speed['texts_s']:.0f} texts/s "
                f"{speed['tokens_s']:.0f} tokens/s padding {speed['padding']:.1%}"
            )
            self.worker.show_progress(progress.step, total_steps, note)
