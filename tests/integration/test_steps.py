"""Single optimizer steps: loss scaling, out of memory, losses that are not finite, features."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from mbti_ray.config import RunConfig
from mbti_ray.data.batch_sampler import length_grouped_steps
from mbti_ray.data.collate import Packing
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.instances import Instances
from mbti_ray.data.windows import Windows
from mbti_ray.engine import loop
from mbti_ray.engine.dataloader import StepLoader
from mbti_ray.engine.loop import run
from mbti_ray.engine.lr_scheduler import linear_warmup_decay, set_lr
from mbti_ray.engine.optimizer import build_optimizer
from mbti_ray.engine.precision import dtype_of
from mbti_ray.engine.step import Stepper
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import RunError
from mbti_ray.model.classifier import MBTIModel, build_model, set_trainable, use_packed_attention
from mbti_ray.model.loss import build_loss

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
State = dict[str, Tensor]


def gap(a: State, b: State) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def loader_of(config: RunConfig, data: Dataset) -> StepLoader:
    return StepLoader(
        Instances.of(config, data.splits["train"]),
        epoch=0,
        worker=Worker(),
        batch_tokens=config.fit.batch_size * config.model.max_tokens,
        pad_id=data.tokenizer.pad_token_id,
    )


def test_loss_scaling_skips_a_step_with_an_inf_and_recovers(quick: Build, data: Dataset) -> None:
    config = quick("fit.precision=16-mixed")
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    device = torch.device("cpu")
    stepper = Stepper(
        build_optimizer(model, config.optim),
        build_loss(config.loss, None),
        dtype_of("16-mixed"),
        device,
        clip_norm=1.0,
        timer=ThroughputTimer(device, 1),
    )
    # Far above what float16 holds: the first gradients must overflow.
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    windows = data.splits["train"]
    step = length_grouped_steps(windows.lengths, 16, seed=0, epoch=0)[0]
    batches = loader_of(config, data).load(step)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stepper.step(model, batches, 1, lambda: None)
    assert stepper.skipped
    assert gap(before, model.state_dict()) == 0.0
    assert stepper.scaler.get_scale() == 2.0**29
    for _ in range(40):
        stepper.step(model, batches, 1, lambda: None)
        if not stepper.skipped:
            break
    assert not stepper.skipped
    after = model.state_dict()
    assert gap(before, after) > 0.0
    assert all(bool(torch.isfinite(v).all()) for v in after.values())


def test_a_step_in_float16_does_not_wait_for_the_loss_scale(
    quick: Build, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick("fit.precision=16-mixed")
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    stepper = stepper_of(config, model, dtype="16-mixed")
    assert stepper.scaler.is_enabled()

    def get_scale() -> float:
        raise AssertionError("reads the scale from the device")

    monkeypatch.setattr(stepper.scaler, "get_scale", get_scale)
    batches = loader_of(config, data).load(np.arange(8))
    sums = stepper.step(model, batches, 1, lambda: None)
    assert sums.shape == (6,)


class SmallMemory(torch.nn.Module):
    """A model on a device whose memory holds only so many windows."""

    def __init__(self, model: MBTIModel, windows: int) -> None:
        super().__init__()
        self.model, self.windows = model, windows

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, packing: Packing | None = None
    ) -> Tensor:
        count = len(packing.lengths) if packing else len(input_ids)
        if count > self.windows:
            raise torch.OutOfMemoryError(f"{count} windows")
        logits: Tensor = self.model(input_ids, attention_mask, packing)
        return logits


def stepper_of(config: RunConfig, model: MBTIModel, dtype: str = "32", **options: bool) -> Stepper:
    device = torch.device("cpu")
    return Stepper(
        build_optimizer(model, config.optim),
        build_loss(config.loss, None),
        dtype_of(dtype),
        device,
        clip_norm=1.0,
        timer=ThroughputTimer(device, 1),
        **options,
    )


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_divided_batches_hold_the_windows_of_the_step_without_more_padding_than_they_need(
    quick: Build, data: Dataset, packed: bool
) -> None:
    windows = data.splits["train"]
    step = length_grouped_steps(windows.lengths, 32, seed=0, epoch=0)[0]
    batches = replace(loader_of(quick(), data), packed=packed).load(step)
    assert batches.divided(1) is batches.batches
    parts = batches.divided(4)
    assert [len(part.weight) for part in parts] == [8] * 4
    for part, members in zip(parts, np.array_split(step, 4), strict=True):
        rows = windows.row_index[members]
        assert torch.equal(part.labels, torch.from_numpy(windows.labels[rows]).float())
        lengths = windows.lengths[members]
        expected = (1, lengths.sum()) if packed else (8, lengths.max())
        assert [tuple(one.input_ids.shape) for one in part.passes] == [expected]
    assert [len(part.weight) for part in batches.divided(64)] == [1] * 32


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_out_of_memory_halves_the_batches_and_does_not_change_the_step(
    quick: Build, data: Dataset, packed: bool
) -> None:
    config = quick("model.dropout=0")
    step = length_grouped_steps(data.splits["train"].lengths, 32, seed=0, epoch=0)[0]
    batches = replace(loader_of(config, data), packed=packed).load(step)
    states, sums = [], []
    for windows in (1000, 9):
        model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
        use_packed_attention(model)
        stepper = stepper_of(config, model)
        sums.append(stepper.step(SmallMemory(model, windows), batches, 1, lambda: None))
        states.append(model.state_dict())
    assert stepper.halvings == 2, "32 windows, then 16, then 8"
    assert gap(*states) < 1e-5
    torch.testing.assert_close(sums[0], sums[1])
    with pytest.raises(RunError, match=r"not even one window of \d+ tokens fits on cpu; try"):
        stepper.step(SmallMemory(model, 0), batches, 1, lambda: None)


@pytest.mark.parametrize("precision", ["32", "16-mixed"])
def test_clipped_gradients_give_the_weights_that_torch_gives(
    quick: Build, data: Dataset, precision: str
) -> None:
    config = quick("model.dropout=0")

    def train(clips: str) -> State:
        model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
        stepper = stepper_of(config, model, precision)
        stepper.clip_norm = 0.5 if clips == "ours" else None

        def clip(*_: Any) -> None:
            clip_grad_norm_(model.parameters(), 0.5)

        if clips == "torch":
            stepper.optimizer.register_step_pre_hook(clip)
        # The first step of AdamW is the same at any scale of its gradient; those after it are not.
        for step, factor in enumerate((1, 5, 1)):
            loaded = loader_of(config, data).load(np.arange(8 * step, 8 * step + 8))
            batches = [replace(b, weight=b.weight * factor) for b in loaded.batches]
            stepper.step(model, replace(loaded, batches=batches), 1, lambda: None)
            assert not stepper.skipped
        return model.state_dict()

    def distance(a: State, b: State) -> float:
        return sum(float((a[name] - b[name]).abs().sum()) for name in a)

    expected = train("torch")
    # AdamW turns the rounding of a gradient that should be 0, as that of a key's bias, into a step.
    assert distance(train("ours"), expected) < 0.02 * distance(train("never"), expected)


def test_a_step_whose_loss_is_not_finite_is_skipped_where_that_is_allowed(
    quick: Build, data: Dataset
) -> None:
    config = quick()
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    stepper = stepper_of(config, model, skips_nonfinite=True)
    batches = loader_of(config, data).load(np.arange(8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    broken = replace(batches.batches[0], labels=batches.batches[0].labels * float("nan"))
    stepper.step(model, replace(batches, batches=[broken]), 1, lambda: None)
    assert stepper.skipped
    assert gap(before, model.state_dict()) == 0.0
    stepper.step(model, batches, 1, lambda: None)
    assert not stepper.skipped
    assert gap(before, model.state_dict()) > 0.0


def test_heads_on_cached_features_learn_what_heads_on_the_frozen_encoder_learn(
    quick: Build, data: Dataset
) -> None:
    config = quick("model.trainable=heads", "model.dropout=0", "fit.epochs=3")
    assert np.ptp(data.splits["train"].lengths) > 5, "windows must differ for this to show anything"
    outcome = run(config, data, Worker())
    # The same by hand: the whole model in every step, its encoder frozen.
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=config.seed)
    set_trainable(model, "heads")
    stepper = stepper_of(config, model)
    windows = data.splits["train"]
    loader = loader_of(config, data)
    plans = [length_grouped_steps(windows.lengths, 32, seed=config.seed, epoch=e) for e in range(3)]
    steps = [step for plan in plans for step in plan]
    for place, batches in enumerate(loader.iterate(steps)):
        rate = linear_warmup_decay(
            place, warmup_steps=config.optim.warmup_of(len(steps)), total_steps=len(steps)
        )
        set_lr(stepper.optimizer, rate)
        stepper.step(model, batches, 1, lambda: None)
    assert outcome.progress.best_epoch == 3, "its weights must be the last ones"
    assert gap(outcome.model.state_dict(), model.state_dict()) < 1e-5
    start = build_model(config.model, vocabulary=len(data.tokenizer), seed=config.seed)
    changed = [
        k
        for k, v in start.state_dict().items()
        if not torch.equal(v, outcome.model.state_dict()[k])
    ]
    assert set(changed) == {"heads.weight", "heads.bias"}


def test_balanced_weights_count_windows_as_the_loss_does(quick: Build, data: Dataset) -> None:
    config = quick("loss.pos_weight=balanced", "fit.epochs=1")
    train = data.splits["train"]
    # Each E has three windows, each I one.
    copies = np.where(train.labels[train.row_index, 0] == 1, 3, 1)
    repeated = np.repeat(np.arange(len(train)), copies)
    windows = Windows(train.table.take(repeated), train.rows)
    many = replace(data, splits={**data.splits, "train": windows})
    with mock.patch.object(loop, "build_loss", wraps=loop.build_loss) as build:
        run(config, many, Worker(), score_test=False)
    weight = build.call_args.args[1]
    positive = train.labels[train.row_index[repeated]].mean(0)
    np.testing.assert_allclose(weight, (1 - positive) / positive, rtol=1e-5)
