"""One optimiser step: forward and backward over its batches, one exchange of gradients, one update.

The gradient is that of the mean loss over all windows of the step, over all ranks and batches, so
it does not depend on how the step was cut up. All randomness of a step (dropout) is seeded by the
seed, the step and the rank: there is no random state to save.
"""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mbti_ray.data.batches import Indices, Share, collate
from mbti_ray.data.windows import Windows
from mbti_ray.engine.precision import Precision
from mbti_ray.model.loss import LossFunction
from mbti_ray.typology import DIMENSIONS


class Stepper:
    """Takes optimiser steps on a device.

    Attributes:
        scaler: Loss scaling; passes everything through unless the precision needs it.
        skipped: Whether loss scaling left the last update out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        loss: LossFunction,
        precision: Precision,
        device: torch.device,
        *,
        clip_norm: float | None,
        pad_id: int,
    ) -> None:
        self.optimizer = optimizer
        self.skipped = False
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision.scaled)
        self._loss = loss
        self._precision = precision
        self._device = device
        self._clip_norm = clip_norm
        self._pad_id = pad_id

    def step(self, model: nn.Module, windows: Windows, share: Share, world_size: int) -> Tensor:
        """Train on one rank's share of a step.

        Args:
            model: As `Worker.prepare` gave it.

        Returns:
            Sums [5] over this rank's windows, on the device: the loss, and how often E/I, S/N, T/F
            and J/P were right (with dropout on, before the update).
        """
        total = torch.zeros(1 + len(DIMENSIONS), device=self._device)
        for place, indices in enumerate(share.batches):
            last = place == len(share.batches) - 1
            loss, right = self._forward(model, windows, indices, share, last=last)
            total += torch.cat([loss.detach()[None], right])
            # The wrapper averages over ranks; the step's loss is a sum over them.
            scale = world_size / share.step_windows
            with self._exchange(model, last=last):
                self.scaler.scale(loss * scale).backward()  # type: ignore[no-untyped-call]
        self._update(model)
        return total

    def _forward(
        self,
        model: nn.Module,
        windows: Windows,
        indices: Indices,
        share: Share,
        *,
        last: bool,
    ) -> tuple[Tensor, Tensor]:
        batch = collate(windows, indices, weight=share.weight, pad_id=self._pad_id)
        batch = batch.to(self._device)
        with self._exchange(model, last=last), self._precision.autocast(self._device):
            logits = model(batch.input_ids, batch.attention_mask)
        right = ((logits.detach() > 0) == (batch.labels > 0.5)) * batch.weight[:, None]
        return (self._loss(logits.float(), batch.labels) * batch.weight).sum(), right.sum(0)

    def _update(self, model: nn.Module) -> None:
        if self._clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(model.parameters(), self._clip_norm)
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


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make all randomness of the coming step a function of these three."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) & (2**63 - 1))
