"""Counts that add up, and scores that agree with counting by hand."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.scores.counts import Counts, pool_rows, type_index
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of, type_of

pytestmark = pytest.mark.unit


def some_rows(count, *, seed=0):
    """Logits [R, 4] and labels [R, 4] with other shares in every dimension."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=generator) * 2
    labels = torch.rand(count, 4, generator=generator) < torch.tensor([0.2, 0.85, 0.5, 0.4])
    return logits, labels.to(torch.uint8)


@given(
    count=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_counts_are_the_same_however_the_rows_are_split(count, cuts, seed):
    logits, labels = some_rows(count, seed=seed)
    ends = sorted({0, count, *(min(c, count) for c in cuts)})
    summed = Counts.none()
    for start, end in pairwise(ends):
        summed = summed + Counts.of(logits[start:end], labels[start:end])
    whole = Counts.of(logits, labels)
    torch.testing.assert_close(summed.vector, whole.vector, rtol=1e-12, atol=1e-12)
    assert summed.scores() == pytest.approx(whole.scores(), rel=1e-12)


def test_counts_are_double_precision_and_begin_at_nothing():
    logits, labels = some_rows(7)
    counts = Counts.of(logits, labels)
    assert counts.vector.dtype == torch.float64
    assert torch.equal((Counts.none() + counts).vector, counts.vector)
    assert not Counts.none().vector.any()


@pytest.mark.parametrize("count", [1, 2, 157])
def test_scores_agree_with_counting_by_hand(count):
    logits, labels = some_rows(count, seed=count)
    scores = Counts.of(logits, labels).scores()
    given_types = [type_of((row > 0).tolist()) for row in logits]
    true_types = [type_of(row.tolist()) for row in labels]
    for place, dimension in enumerate(DIMENSIONS):
        right = sum(g[place] == t[place] for g, t in zip(given_types, true_types, strict=True))
        commonest = max(Counter(t[place] for t in true_types).values())
        assert scores[f"acc_{dimension.key}"] == pytest.approx(right / count)
        assert scores[f"majority_{dimension.key}"] == pytest.approx(commonest / count)
    all_right = sum(g == t for g, t in zip(given_types, true_types, strict=True))
    assert scores["acc_total"] == pytest.approx(all_right / count)
    commonest_type = max(Counter(true_types).values())
    assert scores["majority_total"] == pytest.approx(commonest_type / count)
    assert scores["rows"] == count
    for kind in ("acc", "majority"):
        four = [scores[f"{kind}_{d.key}"] for d in DIMENSIONS]
        assert scores[f"{kind}_mean"] == pytest.approx(sum(four) / 4)


def test_the_loss_is_plain_cross_entropy_over_rows_and_dimensions():
    logits, labels = some_rows(23)
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), labels.double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert Counts.of(logits, labels).scores()["loss"] == pytest.approx(expected)


def test_the_examples_of_the_seed_score_as_it_says():
    given_labels = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])
    labels = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]])
    scores = Counts.of(given_labels * 4.0 - 2.0, labels).scores()
    assert [scores[f"acc_{k}"] for k in ("ei", "sn", "tf", "jp", "total")] == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize("place", range(4))
def test_a_mistake_in_one_dimension_lowers_that_accuracy_alone(place):
    labels = torch.tensor([labels_of(t) for t in TYPES])
    logits = labels * 2.0 - 1.0
    logits[5, place] *= -1
    scores = Counts.of(logits, labels).scores()
    for k, dimension in enumerate(DIMENSIONS):
        assert scores[f"acc_{dimension.key}"] == (15 / 16 if k == place else 1)


def test_thresholds_move_the_border_of_their_dimension_only():
    logits = torch.logit(torch.tensor([[0.6, 0.6, 0.6, 0.6]]))
    labels = torch.tensor([[1, 1, 1, 1]])
    thresholds = torch.tensor([0.5, 0.7, 0.5, 0.59])
    scores = Counts.of(logits, labels, thresholds).scores()
    assert [scores[f"acc_{d.key}"] for d in DIMENSIONS] == [1, 0, 1, 1]


def test_every_type_has_an_index_of_its_own():
    labels = torch.tensor([labels_of(t) for t in TYPES], dtype=torch.uint8)
    assert sorted(type_index(labels).tolist()) == list(range(16))


@given(
    windows=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300)), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_a_row_is_the_mean_of_its_windows_weighted_by_their_tokens(windows, seed):
    # Every row has a window, as `pack_posts` sees to.
    windows = [*windows, *((row, 7) for row in range(5))]
    rows, tokens = (np.array(column) for column in zip(*windows, strict=True))
    logits = np.random.default_rng(seed).normal(size=(len(windows), 4))
    pooled = pool_rows(
        torch.from_numpy(logits), torch.from_numpy(rows), torch.from_numpy(tokens), 5
    ).numpy()
    for row in range(5):
        mine = rows == row
        expected = np.average(logits[mine], axis=0, weights=tokens[mine])
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-9, atol=1e-12)


def test_a_row_of_one_window_keeps_its_logits():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    pooled = pool_rows(logits, torch.tensor([2, 0, 1]), torch.tensor([5, 17, 128]), 3)
    torch.testing.assert_close(pooled, logits[[1, 2, 0]])
