"""One optimizer step: forward and backward over its batches, one gradient exchange, one update.

The gradient is that of the mean loss over all instances of the step, over all ranks and batches, so
it does not depend on how the step was divided. All randomness of a step (dropout) is seeded with
the seed, the step and the rank: there is no random state to save. Must not know epochs or configs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mbti_ray.data.collate import Batch
from mbti_ray.engine.dataloader import StepBatches
from mbti_ray.engine.distributed import all_reduce_buckets, bucket_gradients
from mbti_ray.engine.optimizer import allocate_moments, parameters_of
from mbti_ray.engine.out_of_memory import free_cached_memory, out_of_memory, unless_out_of_memory
from mbti_ray.engine.precision import autocast
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.errors import RunError
from mbti_ray.model.loss import LossFunction
from mbti_ray.typology import DIMENSIONS


@dataclass
class Stepper:
    """Takes optimizer steps on a device.

    Attributes:
        dtype: What autocast computes in; see `resolve_precision`.
        clip_norm: Limit of the gradient norm; None clips nothing.
        skips_nonfinite: Make no update where the gradient is not finite.
        halvings: How often batches are halved because they did not fit into memory.
        skipped: Whether the last step made no update, as a bool on the device.
    """

    optimizer: Optimizer
    loss: LossFunction
    dtype: torch.dtype | None
    device: torch.device
    clip_norm: float | None
    timer: ThroughputTimer
    skips_nonfinite: bool = False
    halvings: int = 0
    skipped: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.skipped = torch.zeros((), dtype=torch.bool, device=self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def step(
        self, model: nn.Module, step: StepBatches, world_size: int, seed_step: Callable[[], None]
    ) -> Tensor:
        """Train on one rank's batches of a step.

        Batches that do not fit into the device's memory are halved, in this step and all later
        ones; the instances of the step, and so its gradient, stay the same.

        Args:
            seed_step: Seeds the randomness of this step; called before each attempt.

        Returns:
            Sums [6] over this rank's instances, on the device: the loss, the number of correct
            answers for E/I, S/N, T/F and J/P (with dropout on, before the update), and whether no
            update was made.

        Raises:
            RunError: Not even one instance, or not even the optimizer's state fits.
        """

        def compute() -> tuple[Tensor, list[Tensor]]:
            seed_step()
            sums = self._backward(model, step)
            return sums, bucket_gradients(model) if world_size > 1 else []

        while (computed := unless_out_of_memory(compute)) is None:
            self._halve(step)
        sums, buckets = computed
        with self.timer.phase("backward"):
            all_reduce_buckets(buckets)
        with self.timer.phase("update"):
            self._update()
        return torch.cat([sums, self.skipped.to(sums)[None]])

    def _backward(self, model: nn.Module, step: StepBatches) -> Tensor:
        total = torch.zeros(1 + len(DIMENSIONS), device=self.device)
        for batch in step.divided(2**self.halvings):
            with self.timer.phase("forward"):
                loss, correct = self._forward(model, batch.to(self.device))
            total += torch.cat([loss.detach()[None], correct])
            with self.timer.phase("backward"):
                self.scaler.scale(loss * (1 / step.step_instances)).backward()  # type: ignore[no-untyped-call]
        return total

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.dtype):
            outputs = [model(p.input_ids, p.attention_mask, p.packing) for p in batch.passes]
        logits = torch.cat(outputs).float()
        if batch.groups is not None:
            logits = model.pool(logits, batch.groups)  # type: ignore[operator]
        correct = ((logits.detach() > 0) == (batch.labels > 0.5)) * batch.weight[:, None]
        return (self.loss(logits, batch.labels) * batch.weight).sum(), correct.sum(0)

    def _halve(self, step: StepBatches) -> None:
        """Discard the failed attempt and halve the batches once more."""
        self.optimizer.zero_grad(set_to_none=True)
        if max(map(len, step.members)) <= 2**self.halvings:
            whole = step.batches[0]
            if whole.groups is not None:
                raise out_of_memory("person", int(whole.groups.tokens.sum(1).max()), self.device)
            longest = max(one.input_ids.shape[1] for b in step.batches for one in b.passes)
            raise out_of_memory("window", longest, self.device)
        self.halvings += 1
        free_cached_memory(self.device)

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        parameters = parameters_of(self.optimizer)
        norm = _total_norm([p.grad.flatten() for p in parameters if p.grad is not None])
        if self.clip_norm is not None:
            # AdamW divides the gradients by it: clipping them takes no pass over memory of its own.
            scale = (norm / self.clip_norm).clamp(min=1)
            self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
        # The same on all ranks, which have exchanged their gradients. Read at the next sync only:
        # reading it here would wait for the GPU.
        may_skip = self.scaler.is_enabled() or self.skips_nonfinite
        self.skipped = ~norm.isfinite() & may_skip
        if self.skips_nonfinite and self.skipped:
            self.scaler.update()
        else:
            self._apply_update()
        self.optimizer.zero_grad(set_to_none=True)

    def _apply_update(self) -> None:
        def update() -> bool:
            allocate_moments(self.optimizer)
            # Makes no update where loss scaling has overflowed.
            self.scaler.step(self.optimizer)
            return True

        if unless_out_of_memory(update) is None:
            # A second attempt has the memory that the activations took.
            free_cached_memory(self.device)
            if unless_out_of_memory(update) is None:
                raise RunError(
                    f"out of memory: AdamW's state does not fit on {self.device}; try a smaller "
                    "model.encoder, or model.trainable=heads"
                )
        self.scaler.update()


def _total_norm(gradients: list[Tensor]) -> Tensor:
    if gradients[0].is_cuda:
        return get_total_norm(gradients)
    # On a CPU a dot product takes half as long as torch's norm, which uses one core.
    return torch.stack([torch.dot(g, g) for g in gradients]).sum().sqrt()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make all randomness of the coming step a function of these three."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    value = int(state[0]) & (2**63 - 1)
    torch.default_generator.manual_seed(value)
    # `torch.manual_seed` would format a traceback for a GPU that nothing has used: 1.5 ms.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
