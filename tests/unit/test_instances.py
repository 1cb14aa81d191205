"""What a loss is computed for: windows, or rows with the windows that an epoch samples."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbti_ray.config.schema import LossConfig
from mbti_ray.data.instances import Instances
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.model.loss import build_loss
from mbti_ray.scores.metrics import score_rows

pytestmark = pytest.mark.unit

SHARES = [[0.9, 0.2, 0.6, 0.5], None, [0.1, 1.0, 0.0, 0.3]]
LABELS = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0]], np.uint8)


def windows_of(counts: list[int]) -> Windows:
    """A row for each count, with so many windows of different tokens."""
    tokens = iter(range(10_000))
    rows = [EncodedRow([[next(tokens), 2] for _ in range(n)], truncated=False) for n in counts]
    columns = {pole: np.resize(LABELS[:, k], len(counts)) for k, pole in enumerate("entj")}
    shares = [SHARES[k % 3] for k in range(len(counts))]
    return build_windows(
        rows, pa.table(columns | {"shares": pa.array(shares, pa.list_(pa.float32(), 4))})
    )


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    sampled=st.none() | st.integers(1, 20),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_samples_distinct_windows_of_each_row_whoever_asks(counts, sampled, seed, epoch):
    windows = windows_of(counts)
    instances = Instances(windows, seed, per_row=True, sampled=sampled)
    assert len(instances) == len(counts)
    members = np.arange(len(counts))
    chosen, owner = instances.windows_of(members, epoch=epoch)
    assert (windows.row_index[chosen] == owner).all()
    assert len({*chosen.tolist()}) == len(chosen)
    assert np.bincount(owner).tolist() == [min(n, sampled or n) for n in counts]
    # A rank that has every second person, in another order, samples the same posts of them.
    others = members[::-2]
    theirs, place = instances.windows_of(others, epoch=epoch)
    for k, row in enumerate(others):
        assert theirs[place == k].tolist() == chosen[owner == row].tolist()


def test_another_epoch_and_another_seed_sample_other_windows():
    windows = windows_of([40])
    found = {
        tuple(
            Instances(windows, seed, per_row=True, sampled=20)
            .windows_of(np.array([0]), epoch=epoch)[0]
            .tolist()
        )
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(found) == 9


def test_a_window_is_an_instance_of_its_own_unless_the_loss_is_per_row():
    windows = windows_of([2, 1, 3])
    instances = Instances(windows)
    assert len(instances) == 6
    chosen, owner = instances.windows_of(np.array([4, 0]), epoch=0)
    assert (chosen.tolist(), owner.tolist()) == ([4, 0], [0, 1])
    assert instances.targets.tolist() == LABELS[[0, 0, 1, 2, 2, 2]].tolist()


def test_soft_labels_are_the_targets_of_rows_that_have_them():
    windows = windows_of([1, 2, 1])
    assert np.isnan(windows.shares).all(1).tolist() == [False, True, False]
    targets = Instances(windows, per_row=True, uses_shares=True).targets
    np.testing.assert_allclose(targets[[0, 2]], np.array([SHARES[0], SHARES[2]], np.float32))
    assert targets[1].tolist() == LABELS[1].tolist()
    assert Instances(windows, per_row=True).targets.tolist() == LABELS.tolist()


@pytest.mark.parametrize("kind", ["bce", "focal"])
def test_the_loss_of_soft_labels_is_finite_and_that_of_bce_linear_in_the_share(kind):
    loss = build_loss(LossConfig(kind=kind), None)
    logits = torch.tensor([[1.0, -2.0, 0.3, 0.0]])

    def of_share(share: float) -> float:
        return float(loss(logits, torch.full((1, 4), share)))

    between = [of_share(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(value > 0 for value in between)
    if kind == "bce":
        np.testing.assert_allclose(between, np.linspace(between[0], between[-1], 5), rtol=1e-6)


def test_probabilities_are_scored_against_the_soft_labels_that_there_are():
    windows = windows_of([1, 1, 1])
    logits = torch.randn(3, 4, generator=torch.manual_seed(0))
    labels, shares = torch.from_numpy(windows.labels), torch.from_numpy(windows.shares)
    scores = score_rows(logits, labels, shares=shares)
    gaps = logits[[0, 2]].sigmoid() - torch.tensor([SHARES[0], SHARES[2]])
    assert scores["brier_shares"] == pytest.approx(float(gaps.square().mean()), abs=1e-6)
    assert scores["rmse_shares"] == pytest.approx(scores["brier_shares"] ** 0.5)
    assert score_rows(logits, labels).keys() == scores.keys() - {"brier_shares", "rmse_shares"}
    assert "rmse_shares" not in score_rows(logits, labels, shares=shares * torch.nan)
