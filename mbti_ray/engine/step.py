"""One optimiser step: forward and backward over its batches, one exchange of gradients, one update.

The gradient is that of the mean loss over all windows of the step, over all ranks and batches, so
it does not depend on how the step was cut up. All randomness of a step (dropout) is seeded by the
seed, the step and the rank: there is no random state to save.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mbti_ray.data.collate import Batch
from mbti_ray.engine.dataloader import Portion
from mbti_ray.engine.precision import Precision
from mbti_ray.engine.throughput import Meter
from mbti_ray.errors import RunError
from mbti_ray.model.loss import LossFunction
from mbti_ray.typology import DIMENSIONS

Reseed = Callable[[], None]


class Stepper:
    """Takes optimiser steps on a device.

    Attributes:
        scaler: Loss scaling; passes everything through unless the precision needs it.
        skipped: Whether loss scaling left the last update out.
        cuts: How often batches are cut in half because they did not fit into memory.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss: LossFunction,
        precision: Precision,
        device: torch.device,
        *,
        clip_norm: float | None,
        meter: Meter,
        skips_nonfinite: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.skipped = False
        self.cuts = 0
        self.meter = meter
        self._skips_nonfinite = skips_nonfinite
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
        self._loss = loss
        self._precision = precision
        self._device = device
        self._clip_norm = clip_norm

    def step(self, model: nn.Module, portion: Portion, world_size: int, reseed: Reseed) -> Tensor:
        """Train on one rank's portion of a step.

        A batch that does not fit into the device's memory is cut in half, in this step and all
        later ones; the windows of the step, and so its gradient, stay the same.

        Args:
            model: As `Worker.prepare` gave it.
            reseed: Sets the randomness of this step; called before each attempt.

        Returns:
            Sums [5] over this rank's windows, on the device: the loss, and how often E/I, S/N, T/F
            and J/P were right (with dropout on, before the update).

        Raises:
            RunError: Not even one window fits.
        """
        while True:
            batches = _cut(portion.batches, self.cuts)
            reseed()
            try:
                sums = self._gradients(model, batches, world_size / portion.step_windows)
                break
            except torch.OutOfMemoryError:
                self._make_room(batches)
        self._update(model)
        return sums

    def _gradients(self, model: nn.Module, batches: list[Batch], scale: float) -> Tensor:
        total = torch.zeros(1 + len(DIMENSIONS), device=self._device)
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            with self.meter.phase("forward"):
                loss, right = self._forward(model, batch.to(self._device), last=last)
            total += torch.cat([loss.detach()[None], right])
            # The wrapper averages over ranks; the step's loss is a sum over them.
            with self.meter.phase("backward"), self._exchange(model, last=last):
                self.scaler.scale(loss * scale).backward()  # type: ignore[no-untyped-call]
        return total

    def _forward(self, model: nn.Module, batch: Batch, *, last: bool) -> tuple[Tensor, Tensor]:
        with self._exchange(model, last=last), self._precision.autocast(self._device):
            logits = model(batch.input_ids, batch.attention_mask, batch.packing)
        right = ((logits.detach() > 0) == (batch.labels > 0.5)) * batch.weight[:, None]
        return (self._loss(logits.float(), batch.labels) * batch.weight).sum(), right.sum(0)

    def _make_room(self, batches: list[Batch]) -> None:
        """Forget the attempt and cut batches once more."""
        self.optimizer.zero_grad(set_to_none=True)
        if max(len(batch.weight) for batch in batches) == 1:
            longest = max(batch.input_ids.shape[1] for batch in batches)
            raise RunError(
                f"out of memory: not even one window of {longest} tokens fits on {self._device}; "
                "try a lower model.max_tokens, fit.gradient_checkpointing=true, or a smaller "
                "model.encoder"
            )
        self.cuts += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _update(self, model: nn.Module) -> None:
        with self.meter.phase("update"):
            self._move(model)

    def _move(self, model: nn.Module) -> None:
        if self._clip_norm is not None or self._skips_nonfinite:
            self.scaler.unscale_(self.optimizer)
            norm = clip_grad_norm_(model.parameters(), self._clip_norm or math.inf)
        if self._skips_nonfinite and not self.scaler.is_enabled() and not norm.isfinite():
            # The ranks have exchanged their gradients, so all of them come here together.
            self.skipped = True
        else:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # The scale shrinks exactly when a gradient was inf or nan and the update was left out.
            self.skipped = self.scaler.get_scale() < scale
        self.optimizer.zero_grad(set_to_none=True)

    @staticmethod
    def _exchange(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients in the last backward pass of a step only."""
        if isinstance(model, DistributedDataParallel) and not last:
            return model.no_sync()
        return nullcontext()


def _cut(batches: list[Batch], cuts: int) -> list[Batch]:
    for _ in range(cuts):
        batches = [
            part
            for batch in batches
            for part in (batch.halves() if len(batch.weight) > 1 else [batch])
        ]
    return batches


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make all randomness of the coming step a function of these three."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) & (2**63 - 1))
