"""The training losses against the seed's formulas."""

import numpy as np
import pytest
import torch

from mbti_ray.config.loss_section import LossConfig
from mbti_ray.model.loss import build_loss, positive_weights

pytestmark = pytest.mark.unit

SHARES = torch.tensor([0.2, 0.75, 0.5, 0.4])


def some_batch(size=13):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(size, 4, generator=generator) * 3
    labels = (torch.rand(size, 4, generator=generator) < 0.5).float()
    return logits, labels


def by_hand(logits, labels, *, gamma=0.0, pos_weight=(1.0, 1.0, 1.0, 1.0)):
    """The seed's formulas in numpy: the mean over the dimensions of each window."""
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), labels.double().numpy()
    bce = -(np.array(pos_weight) * y * np.log(p) + (1 - y) * np.log(1 - p))
    p_true = np.where(y == 1, p, 1 - p)
    return ((1 - p_true) ** gamma * bce).mean(1)


def test_the_worked_example_of_the_seed_is_reproduced():
    logits = torch.logit(torch.tensor([[0.8, 0.6, 0.4, 0.7]]))
    labels = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    loss = build_loss(LossConfig(), None)(logits, labels)
    assert loss.shape == (1,)
    # 0.22, 0.51, 0.51 and 0.36 there, each rounded; 0.40 together.
    assert loss.item() == pytest.approx((0.22 + 0.51 + 0.51 + 0.36) / 4, abs=0.005)
    assert loss.item() == pytest.approx(-np.log([0.8, 0.6, 0.6, 0.7]).mean(), abs=1e-6)


def test_the_loss_of_a_window_is_the_mean_over_its_dimensions():
    logits, labels = some_batch()
    loss = build_loss(LossConfig(), None)(logits, labels)
    np.testing.assert_allclose(loss.numpy(), by_hand(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_the_formula_of_its_paper(gamma):
    logits, labels = some_batch()
    loss = build_loss(LossConfig(kind="focal", gamma=gamma), None)(logits, labels)
    np.testing.assert_allclose(loss.numpy(), by_hand(logits, labels, gamma=gamma), rtol=1e-4)


@pytest.mark.parametrize("pos_weight", [None, torch.tensor([1.0, 3.0, 0.5, 2.0])])
def test_focal_loss_with_gamma_zero_is_cross_entropy(pos_weight):
    logits, labels = some_batch()
    focal = build_loss(LossConfig(kind="focal", gamma=0.0), pos_weight)(logits, labels)
    bce = build_loss(LossConfig(kind="bce"), pos_weight)(logits, labels)
    torch.testing.assert_close(focal, bce)


def test_gamma_does_not_change_cross_entropy():
    logits, labels = some_batch()
    losses = [build_loss(LossConfig(gamma=g), None)(logits, labels) for g in (0.0, 5.0)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(("kind", "gamma"), [("bce", 0.0), ("focal", 2.0)])
def test_a_positive_weight_applies_to_the_positive_pole_of_its_dimension_only(kind, gamma):
    logits, labels = some_batch()
    weights = (1.0, 3.0, 0.5, 2.0)
    loss = build_loss(LossConfig(kind=kind, gamma=gamma), torch.tensor(weights))(logits, labels)
    expected = by_hand(logits, labels, gamma=gamma, pos_weight=weights)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_certain_and_wrong_is_expensive_but_finite_and_has_a_gradient(kind):
    logits = torch.tensor([[100.0, -100.0, 100.0, -100.0]], requires_grad=True)
    labels = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    loss = build_loss(LossConfig(kind=kind), None)(logits, labels).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(50.0, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.99, 1.0, 2.0])
@pytest.mark.parametrize("size", [0.0, 18.0, 30.0, 100.0])
def test_focal_loss_has_the_right_gradient_however_certain_the_logits(size, gamma):
    values, labels = [[size, -size, size, -size]], torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    logits = torch.tensor(values, requires_grad=True)
    build_loss(LossConfig(kind="focal", gamma=gamma), None)(logits, labels).sum().backward()
    assert torch.isfinite(logits.grad).all()
    # The derivative of -(1 - p)^gamma log p with p = sigmoid(z) of the true pole, over 4.
    z = torch.tensor(values, dtype=torch.float64) * torch.tensor([[1, -1, -1, 1]])
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    derivative = q**gamma * (gamma * p * torch.log(p) - q)
    expected = derivative * torch.tensor([[1, -1, -1, 1]]) / 4
    # float32 rounds the probability itself by 6e-8.
    torch.testing.assert_close(logits.grad.double(), expected, rtol=1e-4, atol=1e-7)


def test_none_gives_no_weights():
    assert positive_weights(LossConfig(pos_weight="none"), SHARES) is None


def test_balanced_is_negatives_to_positives():
    weights = positive_weights(LossConfig(pos_weight="balanced"), SHARES)
    torch.testing.assert_close(weights, torch.tensor([4.0, 1 / 3, 1.0, 1.5]))


def test_the_power_zero_gives_no_weights():
    assert positive_weights(LossConfig(pos_weight=0.0), SHARES) is None


def test_a_pole_may_have_a_power_or_a_weight_of_its_own():
    config = LossConfig(pos_weight="balanced", power={"E": 0.0, "T": 2.0}, weight={"J": 7.5})
    weights = positive_weights(config, SHARES)
    balanced = positive_weights(LossConfig(pos_weight="balanced"), SHARES)
    expected = torch.tensor([1.0, float(balanced[1]), float(balanced[2]) ** 2, 7.5])
    torch.testing.assert_close(weights, expected)


def test_a_power_and_a_weight_of_one_pole_are_refused():
    with pytest.raises(ValueError, match=r"loss.power.N and loss.weight.N are both set"):
        LossConfig(power={"N": 1.0}, weight={"N": 1.0})


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_number_is_balanced_to_that_power(power):
    weights = positive_weights(LossConfig(pos_weight=power), SHARES)
    torch.testing.assert_close(weights, torch.tensor([4.0, 1 / 3, 1.0, 1.5]) ** power)


def test_four_numbers_are_taken_as_they_are():
    weights = positive_weights(LossConfig(pos_weight=(1.0, 3.0, 1.0, 0.5)), SHARES)
    assert weights.tolist() == [1.0, 3.0, 1.0, 0.5]


def test_a_pole_that_is_absent_gets_a_finite_weight():
    weights = positive_weights(
        LossConfig(pos_weight="balanced"), torch.tensor([0.0, 1.0, 0.5, 0.5])
    )
    assert torch.isfinite(weights).all()
    assert (weights > 0).all()
