"""The reader of posts: each post encoded by itself, attention over the posts of a person."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from people import PERSON, TEXTS
from safetensors.torch import load_file
from torch import Tensor

from mbti_ray.config import RunConfig
from mbti_ray.data.collate import Groups, collate
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.instances import Instances
from mbti_ray.data.split import SPLITS
from mbti_ray.engine.dataloader import StepBatches, StepLoader
from mbti_ray.engine.features import FrozenFeatures
from mbti_ray.engine.loop import run
from mbti_ray.engine.optimizer import build_optimizer
from mbti_ray.engine.step import Stepper
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import RunError, StoppedError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.model.classifier import MBTIModel, build_model, use_packed_attention
from mbti_ray.model.loss import build_loss

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
CPU = torch.device("cpu")
# float32 sums in another order; see test_engine.
_ORDER_OF_SUMS = 2e-4


def attentive(config: RunConfig, data: Dataset) -> MBTIModel:
    """A model at step 0, but with attention that differs between posts."""
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    if model.post_attention is not None:
        torch.nn.init.normal_(model.post_attention.weight, generator=torch.manual_seed(3))
    return model


def load_step(config: RunConfig, data: Dataset, rows: list[int]) -> StepBatches:
    loader = StepLoader(
        Instances.of(config, data.splits["train"]),
        epoch=0,
        worker=Worker(),
        batch_tokens=4096,
        pad_id=data.tokenizer.pad_token_id,
        packed=config.fit.attention == "packed",
    )
    return loader.load(np.array(rows))


def stepper_of(config: RunConfig, model: MBTIModel) -> Stepper:
    return Stepper(
        build_optimizer(model, config.optim),
        build_loss(config.loss, None),
        None,
        CPU,
        clip_norm=None,
        timer=ThroughputTimer(CPU, 1),
    )


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_permuting_posts_changes_nothing_but_changing_one_does(
    posts_model: Predictor,
) -> None:
    orders = [PERSON, PERSON[::-1], PERSON[2:] + PERSON[:2]]
    logits = posts_model.predict_logits([*orders, [*PERSON[:4], "no tea"]], whole=True).values
    torch.testing.assert_close(logits[1:3], logits[:1].expand(2, -1), atol=1e-5, rtol=0)
    assert (logits[3] - logits[0]).abs().max() > 1e-3


def test_a_person_read_next_to_others_has_the_logits_of_one_read_alone(
    posts_model: Predictor,
) -> None:
    together = posts_model.predict_logits(TEXTS, whole=True).values
    alone = [posts_model.predict_logits([posts], whole=True).values for posts in TEXTS]
    # Logits up to 8 in float32.
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_attention_has_learned_that_posts_differ(posts_model: Predictor) -> None:
    attention = posts_model.runtime._model.post_attention
    assert attention.weight.abs().max() > 1e-3


def test_a_person_with_one_post_equals_a_window_of_it(
    posts: Build, quick: Build, posts_data: Dataset
) -> None:
    config = posts()
    model = attentive(config, posts_data).eval()
    plain = quick("model.max_tokens=24").model
    windows = build_model(plain, vocabulary=len(posts_data.tokenizer), seed=0)
    windows.load_state_dict(model.state_dict(), strict=False)
    split = posts_data.splits["train"]
    single = split.row_index[:6]
    one = collate(split, np.arange(6))
    groups = Groups.of(np.arange(6), split.lengths[:6], rows=6)
    with torch.no_grad():
        expected = windows.eval()(one.input_ids, one.attention_mask)
        found = model.pool(model(one.input_ids, one.attention_mask), groups)
    assert len(set(single.tolist())) < 6, "windows of one row, each alone here"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_training_starts_from_the_mean_over_posts(posts: Build, posts_data: Dataset) -> None:
    config = posts("fit.posts=null")
    model = build_model(config.model, vocabulary=len(posts_data.tokenizer), seed=0).eval()
    (batch,) = load_step(config, posts_data, [0, 1, 2]).batches
    with torch.no_grad():
        outputs = torch.cat([model(p.input_ids, p.attention_mask) for p in batch.passes])
        pooled = model.pool(outputs, batch.groups)
    owner = batch.groups.slots // batch.groups.tokens.shape[1]
    means = torch.stack([outputs[owner == row, :4].mean(0) for row in range(3)])
    torch.testing.assert_close(pooled, means, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("attention", ["padded", "packed"])
def test_persons_with_different_counts_of_posts_have_in_one_batch_the_gradient_of_each_alone(
    posts: Build, posts_data: Dataset, layers: int, attention: str
) -> None:
    config = posts(
        "model.dropout=0",
        f"model.post_layers={layers}",
        "fit.posts=null",
        f"fit.attention={attention}",
    )
    counts = np.bincount(posts_data.splits["train"].row_index)
    rows = [int(np.argmax(counts)), int(np.argmin(counts)), 0, 1]
    assert len({*counts[rows].tolist()}) > 1
    gradients = []
    for groups in ([rows], [[row] for row in rows]):
        model = attentive(config, posts_data)
        if attention == "packed":
            use_packed_attention(model)
        for group in groups:
            loss = torch.zeros(())
            for batch in load_step(config, posts_data, group).batches:
                outputs = torch.cat(
                    [model(p.input_ids, p.attention_mask, p.packing) for p in batch.passes]
                )
                assert batch.groups is not None
                logits = model.pool(outputs, batch.groups)
                loss = loss + build_loss(config.loss, None)(logits, batch.labels).sum()
            loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert "post_attention.weight" in gradients[0]
    assert gap(*gradients) < 2e-5


class StoppingOnce(Worker):
    """Is asked to stop at its first poll."""

    def poll_interruption(self) -> Interruption | None:
        return Interruption.STOP


@pytest.mark.parametrize("more", [(), ("model.trainable=gradual",), ("model.trainable=heads",)])
def test_a_run_resumes_bit_for_bit_with_the_posts_that_it_would_have_sampled(
    posts: Build, posts_data: Dataset, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config = posts(*more, "fit.checkpoint_steps=3", "fit.epochs=2", "fit.posts=2")
    whole = run(config, posts_data, Worker(), score_test=False).model.state_dict()
    with pytest.raises(StoppedError):
        run(config, posts_data, StoppingOnce(folder=tmp_path), score_test=False)
    (stopped,) = (tmp_path / "checkpoints").iterdir()
    saved = load_file(stopped / "model.safetensors")
    assert any(name.startswith("encoder.") for name in saved) == ("heads" not in str(more))
    resumed = run(config, posts_data, Worker(folder=tmp_path), score_test=False).model.state_dict()
    assert gap(dict(whole), dict(resumed)) == 0.0


def test_a_frozen_encoder_that_changed_is_not_resumed_with(
    posts: Build, posts_data: Dataset, tmp_path: Path
) -> None:
    config = posts("model.trainable=heads", "fit.checkpoint_steps=3", "fit.epochs=1")
    with pytest.raises(StoppedError):
        run(config, posts_data, StoppingOnce(folder=tmp_path), score_test=False)
    other = posts("model.trainable=heads", "fit.epochs=1", "seed=1")
    with pytest.raises(RunError, match=r"model\.encoder=tiny: its weights have changed"):
        run(other, posts_data, Worker(folder=tmp_path), score_test=False)


def test_another_version_of_transformers_is_no_other_encoder(
    posts: Build, posts_data: Dataset
) -> None:
    config = posts("model.trainable=heads")
    model = build_model(config.model, vocabulary=len(posts_data.tokenizer), seed=0)
    keys = []
    for version in ("5.17.0", "5.23.0"):
        model.encoder.config.transformers_version = version
        keys.append(FrozenFeatures(model, posts_data.folder, Worker()).encoder_key)
    assert keys[0] == keys[1]


def test_out_of_memory_halves_the_persons_of_a_batch_and_does_not_change_the_step(
    posts: Build, posts_data: Dataset
) -> None:
    config = posts("model.dropout=0")
    batches = load_step(config, posts_data, list(range(8)))
    assert len(batches.batches) == 1
    states = []
    for limit in (1000, 3, 0):
        model = attentive(config, posts_data)
        pool = model.pool

        def small(outputs: Tensor, groups: Groups, pool: Any = pool, limit: int = limit) -> Tensor:
            if len(groups.tokens) > limit:
                raise torch.OutOfMemoryError(f"{len(groups.tokens)} persons")
            return pool(outputs, groups)

        stepper = stepper_of(config, model)
        with mock.patch.object(model, "pool", small):
            if not limit:
                with pytest.raises(RunError, match=r"one person of \d+ tokens .*lower fit\.posts"):
                    stepper.step(model, batches, 1, lambda: None)
                return
            stepper.step(model, batches, 1, lambda: None)
        states.append(dict(model.state_dict()))
        assert stepper.halvings == (0 if limit == 1000 else 2)
        if len(states) == 2:
            assert gap(*states) < _ORDER_OF_SUMS


def test_frozen_posts_are_encoded_once_for_all_runs_and_learn_what_the_frozen_encoder_learns(
    posts: Build, posts_data: Dataset, tmp_path: Path
) -> None:
    config = posts("model.trainable=heads", "model.dropout=0", "fit.epochs=3")
    encode = MBTIModel.features
    data = replace(posts_data, folder=tmp_path)
    with mock.patch.object(MBTIModel, "features", autospec=True, side_effect=encode) as recorded:
        outcome = run(config, data, Worker(), score_test=False)
        encoded = sum(len(call.args[1]) for call in recorded.call_args_list)
        again = run(config, data, Worker(), score_test=False)
        # As cross-fitting has them.
        half = data.splits["train"].take(np.arange(0, data.splits["train"].row_count, 2))
        run(config, replace(data, splits=dict.fromkeys(SPLITS, half)), Worker(), score_test=False)
        assert sum(len(call.args[1]) for call in recorded.call_args_list) == encoded
    assert encoded == len(data.splits["train"]) + len(data.splits["val"])
    assert gap(dict(again.model.state_dict()), dict(outcome.model.state_dict())) == 0.0
    by_hand = run(
        config.model_copy(update={"model": config.model.model_copy(update={"trainable": "all"})}),
        posts_data,
        Worker(),
        score_test=False,
    )
    assert outcome.progress.step == by_hand.progress.step
    start = build_model(config.model, vocabulary=len(posts_data.tokenizer), seed=config.seed)
    changed = {
        name
        for name, value in start.state_dict().items()
        if not torch.equal(value, outcome.model.state_dict()[name])
    }
    assert changed == {"heads.weight", "heads.bias", "post_attention.weight"}


def test_a_loss_per_person_over_windows_is_that_of_pooled_logits(quick: Build, cache: Path) -> None:
    config = quick("loss.per=person", "model.max_tokens=16", "model.dropout=0", "fit.posts=null")
    data = prepare_dataset(config, cache)
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    split = data.splits["train"]
    assert len(split) > split.row_count
    sums = stepper_of(config, model)._backward(model, load_step(config, data, [0, 1, 2]))
    logits = []
    for row in range(3):
        members = np.flatnonzero(split.row_index == row)
        one = collate(split, members)
        values = model(one.input_ids, one.attention_mask)
        weight = torch.from_numpy(split.lengths[members]).float()[:, None]
        logits.append((values * weight).sum(0) / weight.sum())
    labels = torch.from_numpy(split.labels[:3]).float()
    loss = build_loss(config.loss, None)(torch.stack(logits), labels).sum()
    assert float(sums[0]) == pytest.approx(float(loss.detach()), abs=1e-5)
