"""Temperatures that are found again, thresholds that no other beats, and a band of X."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.scores.calibration import (
    Lengths,
    LengthScaling,
    fit_length_scaling,
    fit_temperature,
    fit_thresholds,
)
from mbti_ray.scores.metrics import Scored, metrics_of_confusion

pytestmark = pytest.mark.unit

OBJECTIVES = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1": "macro_f1"}


def sigmoid(logits):
    return (1 + np.tanh(logits / 2)) / 2


def honest_rows(count, *, seed=0, bias=(-1.0, 1.5, 0.0, 0.4)):
    """Logits and labels [R, 4] whose probabilities are the shares of positives."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 1.5 + bias
    return logits, (rng.random((count, 4)) < sigmoid(logits)).astype(np.uint8)


def loss(logits, labels):
    """Mean negative log-likelihood of each head."""
    return (np.logaddexp(0, logits) - labels * logits).mean(0)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_of_scaled_logits_is_their_scale(factor):
    logits, labels = honest_rows(20_000)
    # The standard error of 1/T is about 1.5 % of it with so many rows.
    assert fit_temperature(logits * factor, labels) == pytest.approx([factor] * 4, rel=0.06)


@given(
    count=st.integers(0, 60),
    scale=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 1000),
    turned=st.booleans(),
)
@settings(max_examples=60)
def test_calibration_never_raises_the_loss_and_stays_in_bounds(count, scale, seed, turned):
    logits, labels = honest_rows(count, seed=seed)
    logits *= -scale if turned else scale
    temperatures = fit_temperature(logits, labels)
    assert all(0.25 <= t <= 10 for t in temperatures)
    if count:
        assert (loss(logits / temperatures, labels) <= loss(logits, labels) + 1e-12).all()


def test_no_other_temperature_of_a_fine_grid_is_better():
    logits, labels = honest_rows(300, seed=5)
    best = loss(logits / fit_temperature(logits, labels), labels)
    for t in np.geomspace(0.25, 10, 400):
        assert (best <= loss(logits / t, labels) + 1e-12).all()


def test_logits_that_separate_and_logits_that_mislead_stop_at_the_bounds():
    labels = np.array([[1, 1, 1, 1], [0, 0, 0, 0]] * 10)
    logits = (2.0 * labels - 1) * [1, -1, 1000, -1000]
    # Beyond what a float can tell from certainty, nothing is gained by sharpening.
    assert fit_temperature(logits, labels) == [0.25, 10, 1, 10]


def test_a_head_that_cannot_be_fitted_keeps_its_temperature():
    logits, labels = honest_rows(40, seed=1)
    labels[:, 0] = 1
    labels[:, 1] = 0
    logits[:, 2] = 0
    assert fit_temperature(logits * 3, labels)[:3] == [1, 1, 1]
    assert fit_temperature(logits * 3, labels)[3] != 1
    assert fit_temperature(logits[:9] * 3, labels[:9]) == [1, 1, 1, 1]


def brute_threshold(p, y, metric):
    """The best of all candidates, each counted by itself; ties go to the nearest to 0.5."""
    values = sorted(set(p.tolist()))
    tried = sorted({0.5, *((a + b) / 2 for a, b in pairwise(values))})
    scored = []
    for t in tried:
        predicted, label = p > t, y == 1
        pairs = ((predicted, label), (~predicted, label), (predicted, ~label), (~predicted, ~label))
        cells = np.array([float((a & b).sum()) for a, b in pairs])
        score = float(metrics_of_confusion(cells)[metric])
        scored.append((-round(score, 9), abs(t - 0.5), t))
    return min(scored)[2]


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(
    count=st.integers(1, 40),
    digits=st.sampled_from([1, 2, 15]),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_thresholds_are_those_of_brute_force(objective, count, digits, share, seed):
    rng = np.random.default_rng(seed)
    y = (rng.random((count, 4)) < share).astype(np.uint8)
    p = np.clip(rng.normal(0.4, 0.2, (count, 4)) + 0.1 * y, 0.01, 0.99).round(digits)
    thresholds = fit_thresholds(p, y, objective)
    for k in range(4):
        constant = y[:, k].min() == y[:, k].max()
        expected = 0.5 if constant else brute_threshold(p[:, k], y[:, k], OBJECTIVES[objective])
        assert thresholds[k] == pytest.approx(expected, abs=1e-12)


def test_half_is_half_whatever_the_rows():
    logits, labels = honest_rows(50)
    assert fit_thresholds(sigmoid(logits), labels, "half") == [0.5] * 4


def test_thresholds_lie_within_0_and_1_even_between_neighbours_of_1():
    ones = np.array([1.0, np.nextafter(1, 0), 0.0, 5e-324])
    p = np.tile(ones[:, None], (1, 4))
    y = np.tile(np.array([[1], [0], [0], [1]]), (1, 4))
    for objective in OBJECTIVES:
        assert all(0 < t < 1 for t in fit_thresholds(p, y, objective))


def test_a_moved_threshold_helps_the_rare_pole():
    p = np.tile(np.r_[np.full(8, 0.1), 0.3, 0.4][:, None], (1, 4))
    y = np.tile(np.r_[np.zeros(8), 1, 1][:, None], (1, 4)).astype(int)
    assert fit_thresholds(p, y, "balanced_accuracy") == pytest.approx([0.2] * 4)


def test_an_answer_is_x_within_the_band_around_its_own_threshold():
    p = np.array([[0.5, 0.44, 0.75, 0.75], [0.56, 0.61, 0.66, 0.86]])
    thresholds = np.array([0.5, 0.5, 0.7, 0.8])
    expected = [[True, False, True, True], [False, False, True, False]]
    rows = Scored(p, np.zeros((2, 4)), thresholds, np.arange(2), abstain=0.0551)
    assert rows.unanswered.tolist() == expected
    assert not replace(rows, abstain=0.0).unanswered.any()


def rows_of_all_lengths(people, *, grows, seed=0):
    """Whole rows and their beginnings; where it `grows`, short ones have noisier logits."""
    rng = np.random.default_rng(seed)
    rates = np.array([0.3, 0.7, 0.5, 0.4])
    labels = (rng.random((people, 4)) < rates).astype(int)
    whole = np.exp(rng.normal(6, 0.7, people)).clip(16, 4000)
    parts = []
    for share in (1, 1 / 4, 1 / 16, 1 / 64):
        tokens = whole * share
        if grows:
            noise = rng.normal(size=(people, 4)) * np.sqrt(0.15 + 60 / tokens)[:, None]
            logits = np.log(rates / (1 - rates)) + 1.2 * ((2 * labels - 1) * 0.5 + noise)
            drawn = labels
        else:
            logits = 1.5 * rng.normal(size=(people, 4))
            drawn = (rng.random((people, 4)) < sigmoid(logits)).astype(int)
        parts.append((logits, drawn, tokens, np.arange(people), np.full(people, share == 1)))
    return Lengths(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def losses_without_and_with_slopes(fitted, others):
    whole = fitted.is_whole
    temperature = fit_temperature(fitted.logits[whole], fitted.labels[whole])
    length = fit_length_scaling(fitted)
    plain = others.logits / temperature
    scaled = plain / length.factors(others.tokens) if length else plain
    return loss(plain, others.labels).mean(), loss(scaled, others.labels).mean()


def test_where_confidence_should_grow_with_text_slopes_lower_the_loss_of_other_people():
    plain, scaled = losses_without_and_with_slopes(
        rows_of_all_lengths(150, grows=True), rows_of_all_lengths(3000, grows=True, seed=1)
    )
    assert scaled < plain - 0.1


@pytest.mark.parametrize("people", [12, 40, 60])
def test_where_length_says_nothing_a_small_validation_split_gives_slopes_that_hardly_matter(people):
    others = rows_of_all_lengths(3000, grows=False, seed=1000)
    gaps = []
    for seed in range(20):
        fitted = rows_of_all_lengths(people, grows=False, seed=seed)
        plain, scaled = losses_without_and_with_slopes(fitted, others)
        gaps.append(scaled - plain)
    assert sorted(gaps)[-3] <= 0
    assert np.mean(gaps) < 0.001


def test_the_four_heads_of_forty_people_show_together_what_none_shows_alone():
    found = [fit_length_scaling(rows_of_all_lengths(40, grows=True, seed=s)) for s in range(10)]
    assert sum(length is not None and all(length.slope) for length in found) >= 8


def test_texts_of_one_length_or_few_people_have_no_slopes():
    rows = rows_of_all_lengths(200, grows=True)
    same = replace(rows, tokens=np.full(len(rows.tokens), 100.0))
    assert fit_length_scaling(same) is None
    assert fit_length_scaling(rows_of_all_lengths(39, grows=True)) is None


def test_beyond_the_texts_that_were_seen_the_temperature_stays():
    length = LengthScaling(slope=[-0.5, 0.0, 0.2, -1.0], reference=100.0, low=50.0, high=200.0)
    short, shortest, mean = length.factors(np.array([50.0, 1.0, 100.0]))
    assert short.tolist() == shortest.tolist() == pytest.approx([2**0.5, 1, 0.5**0.2, 2])
    assert mean.tolist() == [1, 1, 1, 1]
