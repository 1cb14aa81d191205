"""One optimizer step: forward and backward over its batches, one gradient exchange, one update.

The gradient is that of the mean loss over all windows of the step, over all ranks and batches, so
it does not depend on how the step was divided. All randomness of a step (dropout) is seeded with
the seed, the step and the rank: there is no random state to save. Must not know epochs or configs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mbti_ray.data.collate import Batch
from mbti_ray.engine.dataloader import StepBatches
from mbti_ray.engine.distributed import gradient_sync
from mbti_ray.engine.precision import autocast
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.errors import RunError
from mbti_ray.model.loss import LossFunction
from mbti_ray.typology import DIMENSIONS

SeedStep = Callable[[], None]


@dataclass
class Stepper:
    """Takes optimizer steps on a device.

    Attributes:
        dtype: What autocast computes in; see `resolve_precision`.
        clip_norm: Limit of the gradient norm; None clips nothing.
        skips_nonfinite: Make no update where the gradient is not finite.
        scaler: Loss scaling; does nothing unless the precision needs it.
        skipped: Whether the last step made no update: an overflow, or a loss that is not finite.
        halvings: How often batches are halved because they did not fit into memory.
    """

    optimizer: Optimizer
    loss: LossFunction
    dtype: torch.dtype | None
    device: torch.device
    clip_norm: float | None
    timer: ThroughputTimer
    skips_nonfinite: bool = False
    skipped: bool = False
    halvings: int = 0

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def step(
        self, model: nn.Module, step: StepBatches, world_size: int, seed_step: SeedStep
    ) -> Tensor:
        """Train on one rank's batches of a step.

        Batches that do not fit into the device's memory are halved, in this step and all later
        ones; the windows of the step, and so its gradient, stay the same.

        Args:
            model: As `Worker.prepare` returned it.
            seed_step: Seeds the randomness of this step; called before each attempt.

        Returns:
            Sums [5] over this rank's windows, on the device: the loss, and the number of correct
            answers for E/I, S/N, T/F and J/P (with dropout on, before the update).

        Raises:
            RunError: Not even one window fits.
        """
        while True:
            batches = step.divided(2**self.halvings)
            seed_step()
            try:
                sums = self._backward(model, batches, world_size / step.step_windows)
                break
            except torch.OutOfMemoryError:
                self._free_memory(batches)
        with self.timer.phase("update"):
            self._update(model)
        return sums

    def _backward(self, model: nn.Module, batches: list[Batch], scale: float) -> Tensor:
        total = torch.zeros(1 + len(DIMENSIONS), device=self.device)
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            # DDP reads the setting in the forward pass as well.
            with gradient_sync(model, enabled=is_last):
                with self.timer.phase("forward"):
                    loss, correct = self._forward(model, batch.to(self.device))
                total += torch.cat([loss.detach()[None], correct])
                # DDP averages over the ranks; the loss of the step is a sum over them.
                with self.timer.phase("backward"):
                    self.scaler.scale(loss * scale).backward()  # type: ignore[no-untyped-call]
        return total

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.dtype):
            logits = model(batch.input_ids, batch.attention_mask, batch.packing)
        correct = ((logits.detach() > 0) == (batch.labels > 0.5)) * batch.weight[:, None]
        return (self.loss(logits.float(), batch.labels) * batch.weight).sum(), correct.sum(0)

    def _free_memory(self, batches: list[Batch]) -> None:
        """Discard the failed attempt and halve the batches once more."""
        self.optimizer.zero_grad(set_to_none=True)
        if max(len(batch.weight) for batch in batches) == 1:
            longest = max(batch.input_ids.shape[1] for batch in batches)
            raise RunError(
                f"out of memory: not even one window of {longest} tokens fits on {self.device}; "
                "try a lower model.max_tokens, fit.gradient_checkpointing=true, or a smaller "
                "model.encoder"
            )
        self.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _update(self, model: nn.Module) -> None:
        if self.clip_norm is not None or self.skips_nonfinite:
            self.scaler.unscale_(self.optimizer)
            norm = clip_grad_norm_(model.parameters(), self.clip_norm or math.inf)
        if self.skips_nonfinite and not self.scaler.is_enabled() and not norm.isfinite():
            # The ranks have exchanged their gradients, so all of them take this branch.
            self.skipped = True
        else:
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # The scale shrinks exactly when a gradient overflowed and the update was skipped.
            self.skipped = self.scaler.get_scale() < scale
        self.optimizer.zero_grad(set_to_none=True)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make all randomness of the coming step a function of these three."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) & (2**63 - 1))
