"""The summary that is printed before a run starts: sizes, memory, windows, steps.

Knows configs and datasets; allocates no weights.
"""

import math

import torch

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.instances import Instances
from mbti_ray.errors import counted
from mbti_ray.model.classifier import MBTIModel, build_model, set_trainable, stage_of_epoch
from mbti_ray.typology import DIMENSIONS

# A float32 weight, its gradient and AdamW's two moments; the weight alone.
_TRAINED_BYTES, _FROZEN_BYTES = 16, 4
# Runs of fewer optimizer steps hardly move the weights.
_FEW_STEPS = 50


def summarize(config: RunConfig, data: Dataset) -> list[tuple[str, str]]:
    """Pairs of a heading and a sentence."""
    train = data.splits["train"]
    lengths, positive = train.lengths, train.labels.mean(0)
    labels = ", ".join(f"{d.positive} {s:.1%}" for d, s in zip(DIMENSIONS, positive, strict=True))
    of_data = [("data", _data(config, data)), ("labels", labels)]
    if not config.model.has_encoder:
        return [("model", "TF-IDF of words and word pairs with logistic regression"), *of_data]
    with torch.device("meta"):
        model = build_model(
            config.model, vocabulary=len(data.tokenizer), seed=config.seed, pretrained=False
        )
    encoder = sum(p.numel() for p in model.encoder.parameters())
    weights, biases = model.heads.weight.numel(), model.heads.bias.numel()
    return [
        (
            "model",
            f"{config.model.encoder}: encoder {encoder:,} parameters, heads {weights:,} + {biases}"
            f", {config.model.pooling} pooling, reader: {config.model.reader}, trainable: "
            f"{config.model.trainable}",
        ),
        ("memory", _memory(config, model)),
        *of_data,
        (
            "windows",
            f"{len(lengths):,} to train on, {lengths.mean():.0f} tokens on average, "
            f"{int(lengths.max())} at most, {int(lengths.sum()):,} in all",
        ),
        ("steps", _steps(config, data)),
    ]


def _memory(config: RunConfig, model: MBTIModel) -> str:
    # The last epoch trains the most parameters.
    set_trainable(model, stage_of_epoch(config.model.trainable, config.fit.epochs - 1))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    held = trained * _TRAINED_BYTES + frozen * _FROZEN_BYTES
    return f"{held / 2**20:,.0f} MiB a worker for weights, gradients and AdamW, before activations"


def _data(config: RunConfig, data: Dataset) -> str:
    rows = {name: windows.row_count for name, windows in data.splits.items()}
    counts = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    if config.data.trains_on_all:
        counts = f"{rows['train']:,} in {config.data.folds} folds"
    parts = [f"{data.info.source}: {config.data.unit}s {counts}, split by {data.info.split_by}"]
    parts.append("type words and URLs masked" if data.info.mask_version else "NOT masked")
    if data.info.bad:
        parts.append(f"{len(data.info.bad)} bad rows left out")
    if data.info.repaired:
        parts.append(f"{data.info.repaired} rows with repaired encoding")
    if data.info.truncated:
        parts.append(f"{data.info.truncated} {config.data.unit}s longer than the limit, cut")
    return "; ".join(parts)


def _steps(config: RunConfig, data: Dataset) -> str:
    fit = config.fit
    steps = _epoch_steps(config, data)
    unit = "persons" if config.is_loss_per_person else "windows"
    least, most = config.scaling.least, config.scaling.most
    workers = f"{least} to {most} workers" if least < most else counted(most, "worker")
    text = (
        f"{steps} an epoch of {fit.step_size} {unit}, at most {fit.epochs} epochs, "
        f"precision {fit.precision}, {workers}"
    )
    warmup, total = config.optim.warmup_of(steps * fit.epochs), steps * fit.epochs
    if warmup > total / 2:
        text += f"; the warm-up of {warmup} steps takes more than half of the {total} steps"
    return text


def _epoch_steps(config: RunConfig, data: Dataset) -> int:
    return math.ceil(len(Instances.of(config, data.splits["train"])) / config.fit.step_size)


def few_steps_warning(config: RunConfig, data: Dataset) -> str | None:
    """A warning if a run has too few optimizer steps to learn much, with the epochs to reach."""
    steps = _epoch_steps(config, data)
    if not config.model.has_encoder or steps * config.fit.epochs >= _FEW_STEPS:
        return None
    return (
        f"{steps * config.fit.epochs} optimizer steps in {config.fit.epochs} epochs are few to "
        f"learn from; fit.epochs={math.ceil(_FEW_STEPS / steps)} makes {_FEW_STEPS} or more"
    )
