"""Metrics that agree with scikit-learn, intervals that cover, p-values that hold under the null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.scores import bootstrap as resampling
from mbti_ray.scores.bootstrap import Estimate, bootstrap, swap_test
from mbti_ray.scores.metrics import METRICS, RATES, metrics_by_person, rates_by_person

pytestmark = pytest.mark.unit

HALVES = np.full(4, 0.5)


def some_rows(count, *, seed=0, digits=None, share=0.3, people=None):
    """Probabilities, labels [R, 4] and persons [R]; few digits make ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 4)) < share).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(count, 4)) - labels))
    if digits is not None:
        probabilities = probabilities.round(digits)
    persons = np.arange(count) if people is None else np.arange(count) % people
    return probabilities, labels, persons


def plain(statistic, groups):
    """The metrics of all rows, each person counted once."""
    return {name: values[0] for name, values in statistic(np.ones((1, groups))).items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    count=st.integers(1, 60),
    digits=st.sampled_from([0, 1, None]),
    share=st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0]),
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_metrics_agree_with_scikit_learn(count, digits, share, threshold, seed):
    reference = pytest.importorskip("sklearn.metrics", reason="needs the extra baselines")
    p, y, persons = some_rows(count, seed=seed, digits=digits, share=share, people=7)
    got = plain(metrics_by_person(p, y, np.full(4, threshold), persons), persons.max() + 1)
    predictions = (p > threshold).astype(int)
    for k in range(4):
        expected = {
            "accuracy": reference.accuracy_score(y[:, k], predictions[:, k]),
            "balanced_accuracy": reference.balanced_accuracy_score(y[:, k], predictions[:, k]),
            "macro_f1": reference.f1_score(
                y[:, k], predictions[:, k], average="macro", zero_division=0
            ),
            "mcc": reference.matthews_corrcoef(y[:, k], predictions[:, k]),
            "brier": ((p[:, k] - y[:, k]) ** 2).mean(),
            "auroc": np.nan,
        }
        if 0 < y[:, k].sum() < count:
            expected["brier"] = reference.brier_score_loss(y[:, k], p[:, k])
            expected["auroc"] = reference.roc_auc_score(y[:, k], p[:, k])
        assert {n: got[n][k] for n in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_every_metric_is_computed():
    p, y, persons = some_rows(9)
    assert set(metrics_by_person(p, y, HALVES, persons)(np.ones((1, 9)))) == set(METRICS)


def calibration_error(p, y):
    """Written from the definition: 15 bins, the last closed on both sides."""
    total = 0.0
    for b in range(15):
        inside = (p >= b / 15) & ((p < (b + 1) / 15) | (b == 14))
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    return total


@given(count=st.integers(1, 200), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_the_calibration_error_is_that_of_its_definition(count, seed):
    p, y, persons = some_rows(count, seed=seed)
    p[0] = [0.0, 1.0, 0.5, 0.999]
    got = plain(metrics_by_person(p, y, HALVES, persons), count)["ece"]
    np.testing.assert_allclose(got, [calibration_error(p[:, k], y[:, k]) for k in range(4)])


def test_probabilities_that_are_shares_have_next_to_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.random((40_000, 4))
    y = rng.random(p.shape) < p
    persons = np.arange(len(p))
    assert (plain(metrics_by_person(p, y, HALVES, persons), len(p))["ece"] < 0.02).all()
    sharper = np.clip(2 * p - 0.5, 0, 1)
    assert (plain(metrics_by_person(sharper, y, HALVES, persons), len(p))["ece"] > 0.08).all()


@given(
    count=st.integers(2, 40),
    people=st.integers(1, 12),
    digits=st.sampled_from([1, None]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_a_person_drawn_twice_counts_as_if_their_rows_occurred_twice(count, people, digits, seed):
    p, y, persons = some_rows(count, seed=seed, digits=digits, people=people)
    groups = persons.max() + 1
    weights = np.random.default_rng(seed).integers(0, 4, (1, groups))
    weights[0, 0] += 1
    copied = np.repeat(np.arange(count), weights[0, persons])
    drawn = metrics_by_person(p, y, HALVES, persons)(weights.astype(float))
    repeated = plain(
        metrics_by_person(p[copied], y[copied], HALVES, np.arange(len(copied))), len(copied)
    )
    for name in METRICS:
        np.testing.assert_allclose(drawn[name][0], repeated[name], atol=1e-9, err_msg=name)


def test_the_auroc_of_every_resample_is_that_of_brute_force():
    p, y, persons = some_rows(60, digits=1, people=11)
    seen = []
    statistic = metrics_by_person(p, y, HALVES, persons)

    def spied(weights):
        seen.append(weights)
        return statistic(weights)

    got = bootstrap(spied, rows=60, groups=11, resamples=50, seed=3)["auroc"].resampled
    drawn = np.concatenate(seen[1:])
    assert (drawn.sum(1) == 11).all()
    for weights, aurocs in zip(drawn, got, strict=True):
        rows = np.repeat(np.arange(60), weights[persons].astype(int))
        for k in range(4):
            ones, zeros = p[rows[y[rows, k] == 1], k], p[rows[y[rows, k] == 0], k]
            won = (ones[:, None] > zeros) + (ones[:, None] == zeros) / 2
            assert aurocs[k] == pytest.approx(won.mean())


def test_the_resamples_depend_on_the_seed_and_not_on_the_block_size(monkeypatch):
    p, y, persons = some_rows(30, people=9)
    statistic = metrics_by_person(p, y, HALVES, persons)
    draws = {
        name: bootstrap(statistic, rows=30, groups=9, resamples=20, seed=seed)["mcc"].resampled
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    }
    monkeypatch.setattr(resampling, "_BLOCK_CELLS", 100)
    blocks = bootstrap(statistic, rows=30, groups=9, resamples=20, seed=1)["mcc"].resampled
    np.testing.assert_array_equal(draws["one"], draws["again"])
    np.testing.assert_allclose(draws["one"], blocks, rtol=1e-12, atol=1e-12)
    assert not np.array_equal(draws["one"], draws["other"])


def test_no_resamples_leave_a_value_without_an_interval():
    p, y, persons = some_rows(20)
    estimate = bootstrap(
        metrics_by_person(p, y, HALVES, persons), rows=20, groups=20, resamples=0, seed=0
    )["accuracy"]
    assert estimate.interval(0) == {"value": estimate.value[0], "low": None, "high": None}


def test_resamples_where_a_metric_is_undefined_are_left_out_of_its_interval():
    draws = np.r_[np.linspace(0, 1, 101), [np.nan] * 50][:, None]
    interval = Estimate(np.array([0.5]), draws).interval(0)
    assert interval == pytest.approx({"value": 0.5, "low": 0.025, "high": 0.975})
    nowhere = Estimate(np.array([0.5]), np.full((9, 1), np.nan)).interval(0)
    assert nowhere == {"value": 0.5, "low": None, "high": None}
    assert Estimate(np.array([np.nan]), draws).interval(0) is None


def clustered_predictions(rng, *, people=40, rows_each=10):
    """Rows correct or not [R, 4] of people who differ: 0.7 is correct, by person from 0.2 to 1."""
    shares = rng.beta(2.1, 0.9, (people, 4))
    persons = np.repeat(np.arange(people), rows_each)
    return rng.random((len(persons), 4)) < shares[persons], persons


def interval_of_accuracy(correct, persons, *, seed):
    rates = rates_by_person(correct, persons)
    estimates = bootstrap(
        lambda weights: {"rates": rates(weights)},
        rows=len(persons),
        groups=persons.max() + 1,
        resamples=200,
        seed=seed,
    )
    return estimates["rates"].interval(RATES.index("ei"))


def test_intervals_by_person_cover_the_truth_and_those_by_row_do_not():
    rng = np.random.default_rng(0)
    by_person = by_row = 0
    wider = []
    for sim in range(300):
        correct, persons = clustered_predictions(rng)
        mine = interval_of_accuracy(correct, persons, seed=sim)
        naive = interval_of_accuracy(correct, np.arange(len(persons)), seed=sim)
        by_person += mine["low"] <= 0.7 <= mine["high"]
        by_row += naive["low"] <= 0.7 <= naive["high"]
        wider.append((mine["high"] - mine["low"]) / (naive["high"] - naive["low"]))
    # Three standard errors of a share of 300 are 0.04, and 200 resamples cost some 0.01.
    assert 0.90 <= by_person / 300 <= 0.985
    assert by_row / 300 < 0.8
    assert np.median(wider) > 1.3


@given(count=st.integers(1, 50), people=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_rates_are_shares_of_rows(count, people, seed):
    correct = np.random.default_rng(seed).random((count, 4)) < 0.6
    persons = np.arange(count) % people
    rates = rates_by_person(correct, persons)(np.ones((1, persons.max() + 1)))[0]
    got = dict(zip(RATES, rates, strict=True))
    expected = dict(zip(("ei", "sn", "tf", "jp"), correct.mean(0), strict=True))
    expected["accuracy"] = correct.mean()
    expected["all_four"] = correct.all(1).mean()
    expected["at_least_three"] = (correct.sum(1) >= 3).mean()
    assert got == pytest.approx(expected)


def sign_flip_p(differences):
    """Two-sided p-values [k] of differences [G, k], summed per person."""
    return swap_test(differences, np.zeros_like(differences), lambda sums: sums, seed=0)[0]


def p_of_two_classifiers(rng, *, people, advantage=0.0):
    """p of mean accuracy between two classifiers on the same rows of people who differ."""
    shares = rng.uniform(0.3, 0.7, (people, 2))
    shares[:, 0] += advantage
    persons = np.repeat(np.arange(people), 8)
    one, other = (
        rng.random((len(persons), 4)) < shares[persons, [k]].reshape(-1, 1) for k in (0, 1)
    )
    gained = one.mean(1) - other.mean(1)
    return sign_flip_p(np.bincount(persons, gained)[:, None])[0]


def test_under_the_null_few_p_are_small_and_they_spread_over_the_whole_range():
    rng = np.random.default_rng(1)
    p = np.array([p_of_two_classifiers(rng, people=11) for _ in range(400)])
    # Three standard errors: 0.033 at 0.05, 0.075 at 0.5.
    assert (p <= 0.05).mean() < 0.085
    assert 0.42 < (p <= 0.5).mean() < 0.58


def test_a_real_difference_has_a_small_p_with_all_flips_and_with_random_ones():
    rng = np.random.default_rng(2)
    assert p_of_two_classifiers(rng, people=12, advantage=0.3) < 0.01
    assert p_of_two_classifiers(rng, people=60, advantage=0.3) == pytest.approx(1 / 10_001)


def test_random_flips_agree_with_all_flips(monkeypatch):
    # The last column has the same difference for several persons, as rows of one tweet have.
    rng = np.random.default_rng(0)
    differences = rng.integers(-5, 7, (12, 3)) * np.array([1.0, 1.0, 0.0])
    differences[:, 2] = np.r_[np.ones(8), -np.ones(4)]
    alike = differences[:, [2]]
    exact = [sign_flip_p(d) for d in (differences, alike)]
    monkeypatch.setattr(resampling, "_EXACT_SWAPS", 0)
    random = [sign_flip_p(d) for d in (differences, alike)]
    # Four standard errors of a share of 10,000.
    np.testing.assert_allclose(np.concatenate(random), np.concatenate(exact), atol=0.02)


@given(st.lists(st.lists(st.integers(-20, 20), min_size=2, max_size=2), min_size=1, max_size=8))
def test_all_flips_give_the_p_of_brute_force(differences):
    d = np.array(differences, dtype=float)
    signs = np.array(np.meshgrid(*[[1, -1]] * len(d))).reshape(len(d), -1).T
    expected = (np.abs(signs @ d) >= np.abs(d.sum(0))).mean(0)
    np.testing.assert_allclose(sign_flip_p(d), expected)


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=3))
def test_three_persons_never_have_a_p_below_a_quarter(differences):
    assert sign_flip_p(np.array(differences, dtype=float)[:, None])[0] >= 0.25


def test_no_difference_at_all_has_a_p_of_one():
    assert sign_flip_p(np.zeros((50, 2))).tolist() == [1, 1]
