"""The scorecard: its shape, its metrics against counting, and the paired baseline."""

import json

import numpy as np
import pytest

from mbti_ray.errors import DataError
from mbti_ray.scores.baselines import Baseline, majority_class
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard
from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.unit

KEYS = [d.key for d in DIMENSIONS]
METRICS = ["accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "brier", "ece"]
RATES = [*KEYS, "accuracy", "all_four", "at_least_three"]


def some_scored(count=200, *, seed=0, people=40, abstain=0.0, thresholds=(0.5, 0.6, 0.4, 0.5)):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 4)) < [0.2, 0.8, 0.5, 0.4]).astype(np.uint8)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(count, 4)) - 3.0 * labels + 1.5))
    persons = 1000 + 7 * (np.arange(count) % people)
    return Scored(probabilities, labels, np.array(thresholds), persons, abstain)


def answering(scored, *, name, mistakes, comparable=True, seed=0):
    """A baseline that is wrong in this share of the predictions."""
    wrong = np.random.default_rng(seed).random(scored.labels.shape) < mistakes
    return Baseline(name, f"{name} described", scored.labels.astype(bool) ^ wrong, comparable)


def card_of(scored, baselines=(), *, resamples=50, **options):
    return build_scorecard(scored, baselines, resamples=resamples, person="author", **options)


def test_the_scorecard_has_its_documented_shape_and_is_json():
    scored = some_scored()
    card = card_of(scored, [majority_class(scored.labels)], missing={"tfidf": "not installed"})
    assert json.loads(json.dumps(card)) == card
    assert list(card) == [
        *("rows", "intervals", "dimensions", "overall", "baselines", "missing", "lengths", "paired")
    ]
    assert list(card["dimensions"]) == KEYS
    counted = ["confusion", "positive", "reliability", "abstained", "accuracy_answered"]
    for record in card["dimensions"].values():
        assert list(record) == [*METRICS, *counted]
        assert list(record["confusion"]) == ["tp", "fn", "fp", "tn"]
    assert list(card["overall"]) == [*METRICS, "all_four", "at_least_three", "abstained"]
    assert list(card["baselines"]["majority"]) == ["description", *RATES, "macro_f1"]
    assert list(card["paired"]) == ["against", "accuracy", "all_four", *KEYS, "macro_f1", "test"]
    assert list(card["paired"]["ei"]) == ["value", "low", "high", "p"]
    assert card["missing"] == {"tfidf": "not installed"}
    assert card["intervals"] == {
        "level": 0.95,
        "resampled": "author",
        "groups": 40,
        "resamples": 50,
        "method": "percentile bootstrap by person",
    }


def test_metrics_are_those_of_counting_by_hand():
    scored = some_scored()
    card = card_of(scored)
    correct = scored.correct
    assert card["rows"] == 200
    for k, key in enumerate(KEYS):
        record = card["dimensions"][key]
        predicted, label = scored.predicted[:, k], scored.labels[:, k].astype(bool)
        assert record["accuracy"]["value"] == pytest.approx(correct[:, k].mean())
        assert record["positive"] == pytest.approx(label.mean())
        assert record["confusion"] == {
            "tp": (predicted & label).sum(),
            "fn": (~predicted & label).sum(),
            "fp": (predicted & ~label).sum(),
            "tn": (~predicted & ~label).sum(),
        }
    overall = card["overall"]
    assert overall["all_four"]["value"] == pytest.approx(correct.all(1).mean())
    assert overall["at_least_three"]["value"] == pytest.approx((correct.sum(1) >= 3).mean())
    for name in METRICS:
        four = [card["dimensions"][key][name]["value"] for key in KEYS]
        assert overall[name]["value"] == pytest.approx(np.mean(four))


def test_every_interval_holds_its_value_and_has_a_width():
    card = card_of(some_scored(), resamples=300)
    for record in [*card["dimensions"].values(), card["overall"]]:
        for name in METRICS:
            # The error of calibration is a sum of absolute values: resampling raises it.
            if name != "ece":
                interval = record[name]
                assert interval["low"] < interval["value"] < interval["high"]


def test_the_bins_of_reliability_hold_all_rows_and_give_the_calibration_error():
    scored = some_scored()
    for record in card_of(scored)["dimensions"].values():
        bins = record["reliability"]
        assert sum(b["count"] for b in bins) == 200
        assert all(b["low"] <= b["probability"] <= b["high"] for b in bins)
        gaps = sum(b["count"] * abs(b["probability"] - b["positive"]) for b in bins)
        assert record["ece"]["value"] == pytest.approx(gaps / 200)


def test_abstaining_changes_what_is_said_of_it_and_nothing_else():
    sure, unsure = (some_scored(abstain=band) for band in (0.0, 0.15))
    plain, banded = card_of(sure), card_of(unsure)
    near = np.abs(unsure.probabilities - unsure.thresholds) < 0.15
    for k, key in enumerate(KEYS):
        before, after = plain["dimensions"][key], banded["dimensions"][key]
        assert before.pop("abstained") == 0
        assert before.pop("accuracy_answered") == pytest.approx(before["accuracy"]["value"])
        assert after.pop("abstained") == pytest.approx(near[:, k].mean())
        answered = unsure.correct[~near[:, k], k]
        assert after.pop("accuracy_answered") == pytest.approx(answered.mean())
        assert before == after
    assert banded["overall"].pop("abstained") == pytest.approx(near.mean())
    assert plain["overall"].pop("abstained") == 0
    assert plain == banded


def test_a_dimension_that_is_never_answered_has_no_accuracy_of_answers():
    record = card_of(some_scored(abstain=1.0))["dimensions"]["ei"]
    assert (record["abstained"], record["accuracy_answered"]) == (1, None)


def test_one_class_only_leaves_no_auroc():
    scored = some_scored()
    scored.labels[:, 2] = 1
    card = card_of(scored)
    assert card["dimensions"]["tf"]["auroc"] is None
    assert card["dimensions"]["tf"]["mcc"]["value"] == 0
    assert card["dimensions"]["ei"]["auroc"] is not None
    assert card["overall"]["auroc"] is None


@pytest.mark.parametrize(("resamples", "people"), [(0, 40), (50, 1)])
def test_nothing_to_resample_leaves_values_without_intervals(resamples, people):
    scored = some_scored(people=people)
    card = card_of(scored, [majority_class(scored.labels)], resamples=resamples)
    assert card["intervals"]["resamples"] == 0
    several = [*card["dimensions"].values(), card["baselines"]["majority"], card["paired"]]
    for record in several:
        assert record.get("accuracy")["low"] is None
    assert 0 < card["overall"]["accuracy"]["value"] < 1


def test_the_same_seed_gives_the_same_card_and_another_gives_other_intervals():
    scored = some_scored()
    assert card_of(scored, seed=4) == card_of(scored, seed=4)
    one, other = (card_of(scored, seed=s)["overall"]["accuracy"] for s in (4, 5))
    assert one["value"] == other["value"]
    assert one != other


def test_the_model_is_paired_with_the_best_baseline_that_may_be_compared():
    scored = some_scored()
    baselines = [
        answering(scored, name="poor", mistakes=0.5),
        answering(scored, name="fair", mistakes=0.3),
        answering(scored, name="cheat", mistakes=0.0, comparable=False),
    ]
    card = card_of(scored, baselines)
    assert list(card["baselines"]) == ["poor", "fair", "cheat"]
    assert card["paired"]["against"] == "fair"
    for name in RATES[:-1]:
        mine = card["overall"].get(name) or card["dimensions"][name]["accuracy"]
        difference = mine["value"] - card["baselines"]["fair"][name]["value"]
        assert card["paired"][name]["value"] == pytest.approx(difference)
    assert card["paired"]["accuracy"]["low"] > 0
    assert card["paired"]["accuracy"]["p"] < 0.001


def test_a_baseline_has_the_macro_f1_of_scikit_learn_and_the_model_is_compared_in_it():
    reference = pytest.importorskip("sklearn.metrics", reason="needs the extra baselines")
    scored = some_scored()
    fair = answering(scored, name="fair", mistakes=0.3)
    card = card_of(scored, [fair])
    mine, theirs = (
        np.mean(
            [
                reference.f1_score(scored.labels[:, k], predicted[:, k], average="macro")
                for k in range(4)
            ]
        )
        for predicted in (scored.predicted, fair.predicted)
    )
    assert card["overall"]["macro_f1"]["value"] == pytest.approx(mine)
    interval = card["baselines"]["fair"]["macro_f1"]
    assert interval["value"] == pytest.approx(theirs)
    assert interval["low"] < theirs < interval["high"]
    difference = card["paired"]["macro_f1"]
    assert difference["value"] == pytest.approx(mine - theirs)
    assert difference["low"] < mine - theirs < difference["high"]
    excludes_zero = difference["low"] > 0 or difference["high"] < 0
    assert (difference["p"] < 0.05) == excludes_zero
    better = answering(scored, name="better", mistakes=0.01)
    assert card_of(scored, [better])["paired"]["macro_f1"]["p"] < 0.001


@pytest.mark.parametrize("comparable", [None, False])
def test_without_a_baseline_to_compare_with_nothing_is_paired(comparable):
    scored = some_scored()
    cheat = answering(scored, name="cheat", mistakes=0.1, comparable=False)
    assert card_of(scored, [] if comparable is None else [cheat])["paired"] is None


def test_a_baseline_that_answers_as_the_model_is_no_different():
    scored = some_scored()
    paired = card_of(scored, [Baseline("twin", "the same", scored.predicted)])["paired"]
    for name in ("accuracy", "all_four", *KEYS):
        assert paired[name] == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_pairing_knows_more_than_two_intervals_do():
    """A baseline that shares the model's mistakes differs from it with a narrow interval."""
    scored = some_scored()
    like = scored.predicted.copy()
    like[:20] = ~scored.labels[:20].astype(bool)
    card = card_of(scored, [Baseline("like", "the model, worse", like)], resamples=300)
    width = {
        name: interval["high"] - interval["low"]
        for name, interval in (
            ("model", card["overall"]["accuracy"]),
            ("baseline", card["baselines"]["like"]["accuracy"]),
            ("paired", card["paired"]["accuracy"]),
        )
    }
    assert width["paired"] < width["model"] + width["baseline"]


def test_three_prolific_persons_are_three_witnesses_however_many_rows_they_have():
    scored = some_scored(3000, people=3)
    card = card_of(scored, [answering(scored, name="poor", mistakes=0.5)])
    assert card["paired"]["accuracy"]["value"] > 0.2
    assert card["paired"]["accuracy"]["p"] == 0.25


def test_no_rows_are_an_error_in_one_line():
    empty = np.zeros((0, 4))
    scored = Scored(empty, empty, np.full(4, 0.5), np.zeros(0, dtype=int))
    with pytest.raises(DataError, match="no rows to score"):
        card_of(scored)
