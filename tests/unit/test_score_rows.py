"""Scores of rows that agree with counting by hand."""

from collections import Counter

import numpy as np
import pytest
import torch

from mbti_ray.scores.metrics import score_rows
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of, type_of

pytestmark = pytest.mark.unit


def some_rows(count, *, seed=0):
    """Logits [R, 4] and labels [R, 4] with different class shares in every dimension."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 4, generator=generator) * 2
    labels = torch.rand(count, 4, generator=generator) < torch.tensor([0.2, 0.85, 0.5, 0.4])
    return logits, labels.to(torch.uint8)


@pytest.mark.parametrize("count", [1, 2, 157])
def test_scores_agree_with_counting_by_hand(count):
    logits, labels = some_rows(count, seed=count)
    scores = score_rows(logits, labels)
    predicted_types = [type_of((row > 0).tolist()) for row in logits]
    true_types = [type_of(row.tolist()) for row in labels]
    for place, dimension in enumerate(DIMENSIONS):
        correct = sum(
            g[place] == t[place] for g, t in zip(predicted_types, true_types, strict=True)
        )
        majority = max(Counter(t[place] for t in true_types).values())
        assert scores[f"acc_{dimension.key}"] == pytest.approx(correct / count)
        assert scores[f"majority_{dimension.key}"] == pytest.approx(majority / count)
    all_correct = sum(g == t for g, t in zip(predicted_types, true_types, strict=True))
    assert scores["acc_total"] == pytest.approx(all_correct / count)
    most_common_type = max(Counter(true_types).values())
    assert scores["majority_total"] == pytest.approx(most_common_type / count)
    assert scores["rows"] == count
    for kind in ("acc", "majority"):
        four = [scores[f"{kind}_{d.key}"] for d in DIMENSIONS]
        assert scores[f"{kind}_mean"] == pytest.approx(sum(four) / 4)


def test_the_loss_is_plain_cross_entropy_over_rows_and_dimensions():
    logits, labels = some_rows(23)
    p, y = 1 / (1 + np.exp(-logits.double().numpy())), labels.double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert score_rows(logits, labels)["loss"] == pytest.approx(expected)


def test_soft_labels_are_scored_where_they_are_given():
    logits, labels, nan = torch.zeros(2, 4), torch.ones(2, 4), float("nan")
    shares = torch.tensor([[0.5, 0.3, nan, 1.0], [nan, nan, nan, nan]])
    scores = score_rows(logits, labels, shares=shares)
    assert scores["brier_shares"] == pytest.approx((0.2**2 + 0.5**2) / 3)
    assert scores["rmse_shares"] == pytest.approx(scores["brier_shares"] ** 0.5)
    assert "rmse_shares" not in score_rows(logits, labels, shares=torch.full((2, 4), nan))


def test_the_examples_of_the_seed_have_the_scores_that_it_gives():
    predicted_labels = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]])
    labels = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]])
    scores = score_rows(predicted_labels * 4.0 - 2.0, labels)
    assert [scores[f"acc_{k}"] for k in ("ei", "sn", "tf", "jp", "total")] == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize("place", range(4))
def test_a_mistake_in_one_dimension_lowers_that_accuracy_alone(place):
    labels = torch.tensor([labels_of(t) for t in TYPES])
    logits = labels * 2.0 - 1.0
    logits[5, place] *= -1
    scores = score_rows(logits, labels)
    for k, dimension in enumerate(DIMENSIONS):
        assert scores[f"acc_{dimension.key}"] == (15 / 16 if k == place else 1)


def test_a_threshold_moves_the_decision_of_its_dimension_only():
    logits = torch.logit(torch.tensor([[0.6, 0.6, 0.6, 0.6]]))
    labels = torch.tensor([[1, 1, 1, 1]])
    thresholds = torch.tensor([0.5, 0.7, 0.5, 0.59])
    scores = score_rows(logits, labels, thresholds)
    assert [scores[f"acc_{d.key}"] for d in DIMENSIONS] == [1, 0, 1, 1]


@pytest.mark.parametrize("count", [2, 25, 300])
def test_macro_f1_and_auroc_are_those_of_scikit_learn(count):
    reference = pytest.importorskip("sklearn.metrics", reason="needs the extra baselines")
    logits, labels = some_rows(count, seed=count)
    # Ties, as saturated logits have them.
    logits = logits.round(decimals=1)
    scores = score_rows(logits, labels)
    for k, dimension in enumerate(DIMENSIONS):
        truth = labels[:, k].numpy()
        f1 = reference.f1_score(truth, logits[:, k] > 0, average="macro", zero_division=0)
        assert scores[f"f1_{dimension.key}"] == pytest.approx(f1)
        if 0 < truth.sum() < count:
            auroc = reference.roc_auc_score(truth, logits[:, k])
            assert scores[f"auroc_{dimension.key}"] == pytest.approx(auroc)
        else:
            assert f"auroc_{dimension.key}" not in scores
    mean = sum(scores[f"f1_{d.key}"] for d in DIMENSIONS) / 4
    assert scores["f1_mean"] == pytest.approx(mean)


def test_soft_labels_are_scored_by_their_nearer_pole():
    logits, labels = some_rows(40)
    soft = labels * 0.4 + 0.3
    hard, softened = score_rows(logits, labels), score_rows(logits, soft)
    changed = {name for name in hard if hard[name] != pytest.approx(softened[name])}
    assert changed == {"loss", "brier"}
