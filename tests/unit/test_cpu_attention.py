"""Attention and dropout for training on a CPU are those of torch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from mbti_ray.model.cpu_attention import attend
from mbti_ray.model.cpu_dropout import drop, use_cpu_dropout

B, A, T, D = 3, 2, 9, 8
MASKS = {
    "none": None,
    "padding": torch.arange(T) < torch.tensor([9, 5, 2])[:, None, None, None],
    "window": (torch.arange(T)[:, None] - torch.arange(T)).abs()[None, None] < 3,
}


def heads(*, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, B, A, T, D, generator=generator).bfloat16()
    return tuple(row.requires_grad_() for row in rows)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_outputs_and_gradients_are_those_of_float32_within_the_digits_of_bfloat16(
    mask: torch.Tensor | None,
) -> None:
    ours, exact = heads(), tuple(row.detach().float().requires_grad_() for row in heads())
    expected = scaled_dot_product_attention(*exact, mask)
    found = attend(*ours, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad.float(), b.grad, atol=0.15, rtol=0.05)


def test_a_token_that_may_attend_to_nothing_has_a_finite_output() -> None:
    mask = torch.ones(B, 1, T, T, dtype=torch.bool)
    mask[:, :, 4] = False
    found = attend(*heads(), mask)
    found.float().sum().backward()
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dropout_drops_its_share_of_the_weights_and_keeps_their_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.zeros(16, 4, 64, D, dtype=dtype).requires_grad_()
    # The output of each token is the sum of its 64 weights, which attend to all alike.
    value = torch.eye(64, dtype=dtype).expand(16, 4, 64, 64)
    weights = attend(query, query, value, None, dropout=0.1).detach().float()
    dropped = (weights == 0).float().mean((0, 1, 2))
    assert dropped.mean() == pytest.approx(0.1, abs=0.003)
    # Every place alike: 64 random bits serve four of them.
    assert dropped.view(16, 4).mean(0).tolist() == pytest.approx([0.1] * 4, abs=0.01)
    assert weights.sum(-1).mean() == pytest.approx(1, abs=0.005)


def test_the_same_seed_drops_the_same_weights() -> None:
    def once(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(*heads(), None, dropout=0.5)

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


def test_what_torch_does_as_fast_is_left_to_torch() -> None:
    rows = tuple(row.detach().float() for row in heads())
    expected = scaled_dot_product_attention(*rows, MASKS["padding"])
    assert torch.equal(attend(*rows, MASKS["padding"]), expected)
    with torch.no_grad():
        torch.manual_seed(3)
        expected = scaled_dot_product_attention(*rows, None, 0.3)
        torch.manual_seed(3)
        assert torch.equal(attend(*rows, None, dropout=0.3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dropout_drops_its_share_and_scales_the_rest_and_its_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(4001, 25, dtype=dtype, requires_grad=True)
    dropped = drop(values, 0.1)
    dropped.sum().backward()
    assert dropped.dtype == dtype
    assert torch.equal(dropped, values.grad)
    kept = nn.functional.dropout(values.detach(), 0.1).max().item()
    assert dropped.unique().tolist() == pytest.approx([0, kept], rel=1e-4)
    assert (dropped == 0).float().mean() == pytest.approx(0.1, abs=0.003)
    # 64 random bits serve four elements, which must not depend on each other.
    fours = (dropped.detach().flatten()[:100_000].view(-1, 4) == 0).float()
    assert fours.mean(0).tolist() == pytest.approx([0.1] * 4, abs=0.01)
    assert torch.corrcoef(fours.T).triu(1).abs().max() < 0.03


def test_the_dropout_of_an_encoder_is_seeded_by_torch_and_off_in_evaluation() -> None:
    encoder = nn.Sequential(nn.Dropout(0.5))
    use_cpu_dropout(encoder)

    def once(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(torch.ones(64))

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    encoder.eval()
    assert torch.equal(once(1), torch.ones(64))
