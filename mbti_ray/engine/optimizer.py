"""The optimiser and its learning rate.

AdamW (Loshchilov and Hutter 2019), fused, no decay on biases and norms; the heads may have a rate
of their own. The rate is a function of the step, so nothing of it needs saving.
"""

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from mbti_ray.config.schema import OptimConfig
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.encoder import layers_of


def build_optimizer(model: MBTIModel, config: OptimConfig) -> Optimizer:
    """AdamW over all parameters, also those that only a later epoch trains."""
    groups = []
    for parameters, rate in _parts(model, config):
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups += [
            {"params": decayed, "peak_lr": rate, "weight_decay": config.weight_decay},
            {"params": plain, "peak_lr": rate, "weight_decay": 0.0},
        ]
    return AdamW(groups, lr=config.lr, fused=True)


def _parts(model: MBTIModel, config: OptimConfig) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with the peak rate that they learn at.

    With `optim.layer_decay` below 1, a layer learns at that share of the rate of the layer above
    it, and the embeddings below them all (Howard and Ruder 2018, "discriminative fine-tuning").
    """
    heads = [*model.heads.parameters()], config.head_lr or config.lr
    if config.layer_decay == 1.0:
        return [([*model.encoder.parameters()], config.lr), heads]
    parts, taken, rate = [heads], set[int](), config.lr
    for layer in reversed(layers_of(model.encoder)):
        parts.append(([*layer.parameters()], rate))
        taken |= {id(p) for p in layer.parameters()}
        rate *= config.layer_decay
    below = [p for p in model.encoder.parameters() if id(p) not in taken]
    return [*parts, (below, rate)]


def load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Take AdamW's moments from a checkpoint; rates and decays stay those of the config.

    A trial that copies another goes on with that one's moments and values of its own.
    """
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def warmup_decay(step: int, *, warmup: int, total: int) -> float:
    """The share of the peak rate at a step (from 0): linear up over `warmup`, linear down to 0.

    Source: the seed's "Learning Rate Scheduler". The first step already moves, and the last one
    still does.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total - step) / max(1, total - warmup))


def set_rate(optimizer: Optimizer, share: float) -> None:
    """Give every group its peak rate times `share`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
