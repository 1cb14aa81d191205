"""Comparisons of two sets of predictions: their numbers, their verdict, and how often they err."""

import numpy as np
import pytest

from mbti_ray.scores.comparison import MAIN_MEASURES, MIN_PERSONS, compare, describe_comparison
from mbti_ray.scores.metrics import Scored

pytestmark = pytest.mark.unit

SHARES = np.array([0.25, 0.85, 0.45, 0.4])


def some_people(seed, *, people=12, posts=3, skill=1.0, copies=2):
    """Equally good predictions of several models for the posts of people who differ."""
    rng = np.random.default_rng(seed)
    labels = np.repeat((rng.random((people, 4)) < SHARES), posts, axis=0)
    persons = np.repeat(np.arange(people), posts)
    of_person = skill * rng.normal(1, 1, (people, 4))[persons] * (2 * labels - 1)
    scored = []
    for _ in range(copies):
        own = rng.normal(0, 1, (people, 4))[persons] + rng.normal(0, 0.5, labels.shape)
        logits = of_person + own
        scored.append(Scored(1 / (1 + np.exp(-logits)), labels, np.full(4, 0.5), persons))
    return scored


def test_differences_are_those_of_scikit_learn_and_of_counting():
    f1_score = pytest.importorskip("sklearn.metrics", reason="needs the extra").f1_score
    first, second = some_people(0)
    found = compare(first, second, resamples=20)
    f1 = [
        np.mean([f1_score(s.labels[:, k], s.predicted[:, k], average="macro") for k in range(4)])
        for s in (first, second)
    ]
    brier = [((s.probabilities - s.labels) ** 2).mean() for s in (first, second)]
    for name, (one, other) in {"macro_f1": f1, "brier": brier}.items():
        assert found["differences"][name]["first"] == pytest.approx(one)
        assert found["differences"][name]["value"] == pytest.approx(other - one)
    accuracy = found["differences"]["accuracy"]
    flips = found["flips"].values()
    gained = sum(f["corrected"] - f["spoiled"] for f in flips)
    assert accuracy["value"] == pytest.approx(gained / (4 * found["rows"]))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert (found["rows"], found["persons"]) == (36, 12)


def test_equal_bundles_are_refused_in_at_most_five_of_a_hundred_comparisons():
    refused = [bool(compare(*some_people(seed), resamples=0)["worse_in"]) for seed in range(200)]
    # 0.05 and two standard errors; not 0, or the test would refuse nothing.
    assert 0 < np.mean(refused) <= 0.08


def test_a_bundle_is_never_refused_against_itself():
    (scored,) = some_people(3, copies=1)
    found = compare(scored, scored, resamples=10)
    assert found["worse_in"] == []
    assert all(found["differences"][n]["p"] == 1 for n in MAIN_MEASURES)
    assert "no more than chance" in describe_comparison(found, "a", "b")


def test_a_worse_bundle_is_refused_and_a_better_one_is_not():
    good, _ = some_people(4, skill=3.0)
    rng = np.random.default_rng(0)
    poor = Scored(rng.random(good.labels.shape), good.labels, good.thresholds, good.persons)
    found = compare(good, poor, resamples=50)
    assert found["worse_in"] == list(MAIN_MEASURES)
    assert describe_comparison(found, "a", "b").startswith("b is worse than a in accuracy -")
    assert compare(poor, good, resamples=50)["worse_in"] == []


@pytest.mark.parametrize("people", [MIN_PERSONS - 1, MIN_PERSONS])
def test_only_people_who_are_too_few_cannot_show_that_the_worst_bundle_is_worse(people):
    rng = np.random.default_rng(0)
    labels, persons, half = rng.random((people, 4)) < 0.5, np.arange(people), np.full(4, 0.5)
    right, wrong = (
        Scored(np.where(of, 0.99, 0.01), labels, half, persons) for of in (labels, ~labels)
    )
    found = compare(right, wrong, resamples=0)
    is_enough = people == MIN_PERSONS
    assert (found["worse_in"] == list(MAIN_MEASURES)) == is_enough
    verdict = describe_comparison(found, "a", "b")
    assert verdict.startswith("b is worse than a in accuracy") == is_enough
    assert ("5 people: too few to tell whether b is better or worse" in verdict) != is_enough


def test_the_majority_class_for_everyone_is_worse_in_macro_f1_though_not_in_accuracy():
    rng = np.random.default_rng(5)
    labels = rng.random((300, 4)) < 0.12
    guess = np.where(rng.random((300, 4)) < 0.88, labels, ~labels) * 0.8 + 0.1
    persons, half = np.arange(300), np.full(4, 0.5)
    balanced = Scored(guess, labels, half, persons)
    majority = Scored(np.full((300, 4), 0.12), labels, half, persons)
    found = compare(balanced, majority, resamples=0)
    assert found["differences"]["accuracy"]["p_worse"] > 0.05
    assert "macro_f1" in found["worse_in"]
