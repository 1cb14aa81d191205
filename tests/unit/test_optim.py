"""The optimizer's parameter groups and the learning-rate schedule."""

from itertools import pairwise

import pytest
import torch

from mbti_ray.config.schema import ModelConfig, OptimConfig
from mbti_ray.engine.lr_scheduler import linear_warmup_decay, set_lr
from mbti_ray.engine.optimizer import build_optimizer
from mbti_ray.model.classifier import build_model

pytestmark = pytest.mark.unit


def schedule(*, warmup, total):
    return [
        linear_warmup_decay(step, warmup_steps=warmup, total_steps=total) for step in range(total)
    ]


def test_the_learning_rate_rises_linearly_to_its_peak_and_falls_linearly_to_zero():
    rates = schedule(warmup=4, total=14)
    rises = [b - a for a, b in pairwise(rates[:5])]
    falls = [a - b for a, b in pairwise(rates[4:])]
    assert rises == pytest.approx([0.2] * 4)
    assert falls == pytest.approx([0.1] * 9)
    assert max(rates) == rates[4] == 1.0
    assert linear_warmup_decay(14, warmup_steps=4, total_steps=14) == 0.0


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 10), (3, 10), (9, 10), (500, 20)])
def test_every_step_has_a_positive_rate_and_none_exceeds_the_peak(warmup, total):
    rates = schedule(warmup=warmup, total=total)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_without_warmup_the_first_step_is_the_peak():
    assert linear_warmup_decay(0, warmup_steps=0, total_steps=10) == 1.0


def test_the_rate_is_never_negative_after_the_end():
    assert linear_warmup_decay(30, warmup_steps=3, total_steps=10) == 0.0


@pytest.fixture
def model():
    return build_model(ModelConfig(encoder="tiny", max_tokens=16), vocabulary=30, seed=0)


def test_every_parameter_is_in_exactly_one_group(model):
    optimizer = build_optimizer(model, OptimConfig())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_weights_decay_and_biases_and_norms_do_not(model):
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    set_lr(optimizer, 1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data += 1
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kinds = set()
    for name, parameter in model.named_parameters():
        spared = name.endswith("bias") or "norm" in name.lower()
        kept = 1.0 if spared else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), (before[name] + 1) * kept)
        kinds.add(spared)
    assert kinds == {True, False}


def rates_of(optimizer, model):
    """The rates of the encoder's parameters and of the heads'."""
    heads = {id(p) for p in model.heads.parameters()}
    rates = {True: set(), False: set()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates[id(parameter) in heads].add(group["lr"])
    return rates[False], rates[True]


def test_the_heads_may_have_a_rate_of_their_own(model):
    optimizer = build_optimizer(model, OptimConfig(lr=1e-4, head_lr=1e-2))
    set_lr(optimizer, 0.5)
    assert rates_of(optimizer, model) == ({5e-5}, {5e-3})
    set_lr(optimizer, 0.25)
    assert rates_of(optimizer, model) == ({2.5e-5}, {2.5e-3})


def test_without_one_they_have_that_of_the_encoder(model):
    optimizer = build_optimizer(model, OptimConfig(lr=1e-4, head_lr=None))
    set_lr(optimizer, 1.0)
    assert rates_of(optimizer, model) == ({1e-4}, {1e-4})
