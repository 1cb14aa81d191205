"""Traces optimizer steps and predictions on a fake GPU; run as a script: trace_steps.py GUARD.so.

Prints one JSON line a variant: its name and its problem, or null. A process of its own, because
the guard has to be loaded before torch is.
"""

import ctypes
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

import numpy as np
import torch
from test_encoders import ENCODERS, PACKED
from test_packed import windows_of
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils
from transformers.initialization import no_init_weights

from mbti_ray.config.loss_section import LossConfig
from mbti_ray.config.schema import OptimConfig
from mbti_ray.data.instances import Instances
from mbti_ray.engine.dataloader import StepBatches, StepLoader
from mbti_ray.engine.optimizer import build_optimizer
from mbti_ray.engine.precision import dtype_of
from mbti_ray.engine.step import Stepper
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import (
    MBTIModel,
    enable_gradient_checkpointing,
    set_trainable,
    use_packed_attention,
)
from mbti_ray.model.encoder import build_encoder
from mbti_ray.model.loss import build_loss, positive_weights

CARD = torch.device("cuda:0")
CONFIGS = ("cls", "focal", "checkpointing", "last_layer", "features", "layer_decay", "posts")
PRECISIONS = ("32", "bf16-mixed", "16-mixed")
WINDOWS = windows_of([33, 20, 20, 11, 7, 7, 3])


@dataclass(frozen=True)
class Variant:
    encoder: str
    precision: str
    config: str = "plain"
    capability: tuple[int, int] = (9, 0)

    def __str__(self) -> str:
        capability = "{}.{}".format(*self.capability)
        return f"{self.encoder} {self.precision} {self.config} on {capability}"


def variants() -> Iterator[Variant]:
    for encoder in ENCODERS:
        for precision in PRECISIONS:
            yield Variant(encoder, precision)
            if encoder in PACKED:
                yield Variant(encoder, precision, "packed")
    for precision in PRECISIONS:
        yield Variant("BERT", precision, "packed", (7, 5))
        yield Variant("ModernBERT", precision, "packed", (7, 5))
        for config in CONFIGS:
            yield Variant("DistilBERT", precision, config)


@contextmanager
def fake_card(capability: tuple[int, int]) -> Iterator[None]:
    """What torch's Python side asks of a card besides tensors."""
    with ExitStack() as stack:
        for target, name, value in (
            (torch.cuda.amp.common, "amp_definitely_not_available", False),
            (torch.cuda, "is_bf16_supported", True),
            (torch.cuda, "get_device_capability", capability),
            # Reads whether anything is padded, for which a step with sliding windows waits.
            (masking_utils, "_ignore_bidirectional_mask_sdpa", False),
        ):
            stack.enter_context(mock.patch.object(target, name, return_value=value))
        yield


def load(variant: Variant, features: torch.Tensor | None = None) -> StepBatches:
    """The real batches of a step, on the host as always."""
    loader = StepLoader(
        Instances(WINDOWS, per_row=variant.config == "posts"),
        epoch=0,
        worker=Worker(device=CARD),
        batch_tokens=100,
        pad_id=1,
        packed=variant.config == "packed",
        features=features,
    )
    with mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor):
        return loader.load(np.arange(len(WINDOWS)))


def build(variant: Variant) -> MBTIModel:
    pooling = "cls" if variant.config == "cls" else "mean"
    encoder = build_encoder(deepcopy(ENCODERS[variant.encoder]))
    reader = "posts" if variant.config == "posts" else "windows"
    model = MBTIModel(encoder, pooling=pooling, dropout=0.1, reader=reader)
    if variant.config == "packed":
        use_packed_attention(model)
    if variant.config == "checkpointing":
        enable_gradient_checkpointing(model)
    set_trainable(model, "last_layer" if variant.config == "last_layer" else "all")
    return model.train()


def trace(variant: Variant) -> None:
    step = load(variant)
    loss = LossConfig(kind="focal" if variant.config == "focal" else "bce", pos_weight="balanced")
    weights = positive_weights(loss, torch.tensor([0.2, 0.4, 0.5, 0.8]))
    optim = OptimConfig(layer_decay=0.9 if variant.config == "layer_decay" else 1.0, head_lr=1e-3)
    with fake_card(variant.capability), FakeTensorMode(allow_non_fake_inputs=True):
        with CARD, no_init_weights():
            model = build(variant)
        assert weights is not None
        weights = weights.to(CARD)
        if variant.config == "features":
            features = torch.empty(len(WINDOWS), 32, device=CARD)
            step = load(variant, features)
        stepper = Stepper(
            build_optimizer(model, optim),
            build_loss(loss, weights),
            dtype_of(variant.precision),
            CARD,
            clip_norm=1.0,
            # Events are the real device's.
            timer=ThroughputTimer(torch.device("cpu"), 1),
        )
        sums = stepper.step(model, step, 1, lambda: None)
        assert (sums.device, sums.shape) == (CARD, (6,))
        assert stepper.scaler.is_enabled() == (variant.precision == "16-mixed")
        for parameter, state in stepper.optimizer.state.items():
            assert parameter.dtype == state["exp_avg"].dtype == torch.float32
            assert {value.device for value in state.values()} == {CARD}
        trained = [p for p in model.parameters() if p.requires_grad]
        assert len(stepper.optimizer.state) <= len(trained)


def main() -> None:
    for variant in variants():
        problem = None
        try:
            trace(variant)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps([str(variant), problem]), flush=True)


if __name__ == "__main__":
    main()
