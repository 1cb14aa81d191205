"""The learning-rate scheduler: linear warmup, then linear decay to zero.

A function of the step alone, so no scheduler state is saved. Knows nothing of models.
"""

from torch.optim import Optimizer


def linear_warmup_decay(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """The factor on the peak learning rate at a step, counted from 0.

    It rises linearly over `warmup_steps` and falls linearly to 0 at `total_steps`. Neither the
    first nor the last step has a factor of 0. Source: the seed's "Learning Rate Scheduler".
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of every parameter group to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
