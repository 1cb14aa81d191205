"""The optimizer: AdamW (Loshchilov and Hutter 2019), fused, no weight decay on biases and norms.

Parameter groups carry their peak learning rate; `lr_scheduler` sets the current one. Knows
nothing of steps or gradients.
"""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from mbti_ray.config.schema import OptimConfig
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.encoder import layers_of


def build_optimizer(model: MBTIModel, config: OptimConfig) -> Optimizer:
    """AdamW over all parameters, including those that only a later epoch trains."""
    groups = []
    for parameters, peak_lr in _peak_lrs(model, config):
        decayed = [p for p in parameters if p.ndim > 1]
        not_decayed = [p for p in parameters if p.ndim <= 1]
        groups += [
            {"params": decayed, "peak_lr": peak_lr, "weight_decay": config.weight_decay},
            {"params": not_decayed, "peak_lr": peak_lr, "weight_decay": 0.0},
        ]
    return AdamW(groups, lr=config.lr, fused=True)


def _peak_lrs(model: MBTIModel, config: OptimConfig) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with their peak learning rate.

    With `optim.layer_decay` below 1, each layer's rate is that fraction of the rate of the layer
    above it, and the embeddings come last (Howard and Ruder 2018, "discriminative fine-tuning").
    """
    encoder = {id(p) for p in model.encoder.parameters()}
    heads = [p for p in model.parameters() if id(p) not in encoder], config.head_lr or config.lr
    if config.layer_decay == 1.0:
        return [([*model.encoder.parameters()], config.lr), heads]
    parts, seen, lr = [heads], set[int](), config.lr
    for layer in reversed(layers_of(model.encoder)):
        parts.append(([*layer.parameters()], lr))
        seen |= {id(p) for p in layer.parameters()}
        lr *= config.layer_decay
    embeddings = [p for p in model.encoder.parameters() if id(p) not in seen]
    return [*parts, (embeddings, lr)]


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters; much faster to list than a model's."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def allocate_moments(optimizer: Optimizer) -> None:
    """Create AdamW's state of the parameters that have a gradient, as its first step would.

    Where memory runs out here, no parameter has been updated yet, and a second attempt is safe.
    """
    for parameter in parameters_of(optimizer):
        if parameter.grad is not None and not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.zeros((), device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}


def load_moments(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load AdamW's moments from a checkpoint; learning rates and decays stay the config's.

    A trial that copies another one's checkpoint resumes with its moments but its own settings.
    """
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
