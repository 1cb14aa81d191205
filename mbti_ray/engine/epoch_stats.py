"""What the steps of an epoch add up to: loss, right answers, time, and what was asked meanwhile.

Steps leave their sums on the device; every few steps somebody looks, which is when a GPU is waited
for and when the ranks learn of each other. Knows progress and the worker; must not know the model.
"""

import math
import time

import torch
from torch import Tensor

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.checkpoint import Progress
from mbti_ray.engine.throughput import Meter, told
from mbti_ray.engine.worker import Request, Worker
from mbti_ray.errors import RunError
from mbti_ray.scores.metrics import Scores
from mbti_ray.typology import DIMENSIONS

# Rows named of a step whose loss is no number.
_NAMED_ROWS = 10


class Tally:
    """Adds up one epoch into `progress`; made anew for each."""

    def __init__(
        self, config: RunConfig, data: Dataset, worker: Worker, progress: Progress, meter: Meter
    ) -> None:
        self._config, self._data, self._worker = config, data, worker
        self._progress, self._meter = progress, meter
        self._steps: list[Indices] = []
        self._sums: list[Tensor] = []
        self._seconds_before = progress.seconds
        self._started = time.monotonic()
        meter.reset()

    def add(self, step: Indices, sums: Tensor) -> None:
        """A step has been taken; its sums [5] of this rank may still be on the device."""
        self._steps.append(step)
        self._sums.append(sums)

    def look(self, total_steps: int) -> Request | None:
        """Add up the steps since the last look over the ranks, which so decide alike.

        Returns:
            What any rank was asked for.

        Raises:
            RunError: The loss of a step is no number, and that was once too often.
        """
        wish = self._worker.request()
        flags = torch.tensor([float(wish == request) for request in Request]).double()
        table = torch.stack(self._sums).double().cpu()
        summed = self._worker.reduce(torch.cat([table.flatten(), flags]))
        sums, flags = summed[: -len(flags)].view_as(table), summed[-len(flags) :]
        first = self._progress.step - len(self._steps) + 1
        for number, (step, row) in enumerate(zip(self._steps, sums.tolist(), strict=True), first):
            self._count(number, step, row)
        self._steps, self._sums = [], []
        self._progress.seconds += time.monotonic() - self._started
        self.restart_clock()
        self._tell(total_steps)
        asked = [request for request, flag in zip(Request, flags.tolist(), strict=True) if flag]
        return asked[-1] if asked else None

    def restart_clock(self) -> None:
        """Leave the time since the last look out of training's."""
        self._started = time.monotonic()

    def scores(self) -> Scores:
        """Running means over the epoch's windows, with dropout on and the weights changing.

        loss; acc_x, and majority_x, which always giving the commonest pole scores on them.
        """
        windows = self._data.splits["train"]
        loss, *right = (v / max(self._progress.windows, 1) for v in self._progress.sums)
        share = windows.labels[windows.row_index].mean(0).tolist()
        figures = {"acc": right, "majority": [max(p, 1 - p) for p in share]}
        scores: Scores = {"loss": loss}
        for name, values in figures.items():
            scores |= {f"{name}_{d.key}": v for d, v in zip(DIMENSIONS, values, strict=True)}
            scores[f"{name}_mean"] = sum(values) / len(values)
        return scores

    def speed(self) -> dict[str, float]:
        """Figures of the epoch so far; see `Meter.read`."""
        return self._meter.read(self._progress.seconds - self._seconds_before)

    def _count(self, number: int, step: Indices, sums: list[float]) -> None:
        progress = self._progress
        if math.isfinite(sums[0]):
            progress.sums = [a + b for a, b in zip(progress.sums, sums, strict=True)]
            progress.windows += len(step)
            return
        progress.nonfinite += 1
        if progress.nonfinite > self._config.fit.skip_nonfinite:
            raise RunError(self._diverged(number, step, sums[0]))

    def _diverged(self, number: int, step: Indices, loss: float) -> str:
        windows = self._data.splits["train"]
        numbers = windows.rows.column("number").to_numpy()[windows.row_index[step]]
        rows = ", ".join(str(n) for n in sorted({*numbers.tolist()})[:_NAMED_ROWS])
        return (
            f"training diverged: the loss is {loss} in step {number} (epoch "
            f"{self._progress.epoch + 1}), on rows {rows} of {self._data.info.source}; try a "
            f"lower optim.lr (now {self._config.optim.lr}), more optim.warmup_steps, "
            "fit.precision=32, or fit.skip_nonfinite=1 to leave such steps out"
        )

    def _tell(self, total_steps: int) -> None:
        progress = self._progress
        if self._worker.rank == 0 and progress.windows:
            note = f"epoch {progress.epoch + 1} loss {progress.sums[0] / progress.windows:.4f}"
            self._worker.progress(progress.step, total_steps, f"{note} {told(self.speed())}")
