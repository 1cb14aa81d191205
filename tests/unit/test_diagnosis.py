"""Every rule of the diagnosis about a whole run: where it fires, and where it just does not."""

import pytest
from learning_curves import (
    COLLAPSED,
    HEALTHY,
    KEYS,
    OVERFITTED,
    RISING,
    STUCK,
    UNDERFITTED,
    curve,
    epoch,
    even,
    named,
    recalls,
    run_config,
)

from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.findings import Finding

pytestmark = pytest.mark.unit


def test_a_healthy_run_has_no_finding():
    assert diagnose(run_config(), HEALTHY) == []
    assert diagnose(run_config("fit.monitor=loss"), HEALTHY) == []


def test_a_run_of_no_epoch_has_no_finding():
    assert diagnose(run_config(), []) == []


def test_overfitting_shows_by_the_seeds_own_figures_and_gets_the_seeds_own_four():
    (finding,) = diagnose(run_config(), OVERFITTED)
    assert finding == Finding(
        "overfitting",
        None,
        "training accuracy 0.95, validation 0.65 in epoch 4; validation loss rose from 0.61 "
        "(epoch 2) to 0.93",
        {
            "model.dropout": 0.3,
            "optim.weight_decay": 0.05,
            "optim.lr": 1e-5,
            "fit.patience": 3,
        },
    )


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ((0.82, 0.66, 0.65), True),
        ((0.80, 0.66, 0.65), False),  # a gap below 0.15
        ((0.82, 0.66, 0.62), False),  # a loss that rises by less than 5 %
        ((0.97, 0.66, 0.62), True),  # the seed's whole gap, whatever the loss does
    ],
)
def test_a_gap_counts_with_a_rising_loss_or_when_it_is_as_large_as_the_seeds(last, found):
    history = curve((0.60, 0.62, 0.64), (0.75, 0.665, 0.61), last)
    assert ("overfitting" in dict(named(diagnose(run_config(), history)))) is found


def test_a_gap_within_the_noise_of_few_rows_is_no_overfitting():
    points = ((0.60, 0.62, 0.64), (0.75, 0.66, 0.61), (0.82, 0.65, 0.70))
    assert named(diagnose(run_config(), curve(*points, rows=200))) == [("overfitting", None)]
    assert diagnose(run_config(), curve(*points, rows=25)) == []


def test_underfitting_shows_by_the_seeds_own_figures_and_gets_the_seeds_own_three():
    (finding,) = diagnose(run_config("fit.epochs=3"), UNDERFITTED)
    assert finding == Finding(
        "underfitting",
        None,
        "training accuracy 0.60, validation 0.58 in epoch 3, where always "
        "predicting the majority class scores 0.50",
        {"optim.lr": 5e-5, "fit.epochs": 6, "model.dropout": 0.05},
    )


def test_one_epoch_is_enough_for_underfitting_and_shows_no_trend():
    assert named(diagnose(run_config(), UNDERFITTED[:1])) == [("underfitting", None)]
    assert diagnose(run_config("fit.epochs=1"), HEALTHY[1:2]) == []
    assert diagnose(run_config(), STUCK[:1]) == []


@pytest.mark.parametrize("accuracy", [0.66, 0.85])
def test_one_dimension_that_is_learned_is_enough_against_underfitting(accuracy):
    history = [
        epoch(
            number,
            train=dict.fromkeys(KEYS, 0.55) | {"tf": accuracy},
            val=dict.fromkeys(KEYS, even(0.53)) | {"tf": even(accuracy)},
        )
        for number in (1, 2, 3)
    ]
    assert "underfitting" not in dict(named(diagnose(run_config(), history)))


def majority_only(number, **auroc):
    """An epoch that predicts the 86 % majority nearly always, with the AUROC of dimensions."""
    val = recalls(positive=0.86, of_positive=1.0, of_negative=0.02)
    record = epoch(number, train=0.87, val=val)
    record["val"] |= {f"auroc_{key}": value for key, value in auroc.items()}
    return record


IMBALANCES = [("imbalance", key) for key in KEYS]


def test_high_accuracy_that_the_majority_alone_gives_is_imbalance_or_underfitting():
    history = [majority_only(number, ei=0.52, sn=0.6) for number in (1, 2, 3)]
    assert named(diagnose(run_config(), history)) == [*IMBALANCES, ("underfitting", None)]


def test_a_good_ranking_behind_the_majority_is_imbalance_and_needs_no_more_epochs():
    history = [majority_only(number, ei=0.9) for number in (1, 2, 3)]
    findings = diagnose(run_config(), history)
    assert named(findings) == IMBALANCES
    assert "AUROC 0.90" in findings[0].evidence
    assert all("fit.epochs" not in finding.tries for finding in findings)


def test_a_ranking_of_few_rows_that_may_be_chance_does_not_rule_underfitting_out():
    few = [majority_only(number, ei=0.9) for number in (1, 2, 3)]
    for record in few:
        record["val"]["rows"] = 7.0
    assert ("underfitting", None) in named(diagnose(run_config(), few))


def test_an_imbalanced_dimension_and_one_that_is_not_learned_are_both_found():
    val = dict.fromkeys(KEYS, even(0.52)) | {
        "sn": recalls(positive=0.86, of_positive=1.0, of_negative=0.02)
    }
    history = [epoch(number, train=0.55, val=val) for number in (1, 2, 3)]
    assert named(diagnose(run_config(), history)) == [("underfitting", None)]
    for record in history:
        record["val"]["auroc_sn"] = 0.95
    assert named(diagnose(run_config(), history)) == [("imbalance", "sn"), ("underfitting", None)]


def test_accuracy_that_weights_hold_below_the_majority_is_no_underfitting():
    val = recalls(positive=0.86, of_positive=0.78, of_negative=0.80)
    history = [epoch(number, train=0.79, val=val) for number in (1, 2, 3)]
    assert diagnose(run_config("loss.pos_weight=balanced"), history) == []


def test_a_run_that_patience_ended_is_to_get_more_patience_not_more_epochs():
    (finding,) = diagnose(run_config("fit.epochs=10", "fit.patience=2"), UNDERFITTED)
    assert finding.tries["fit.patience"] == 4
    assert "fit.epochs" not in finding.tries


def test_a_rate_beyond_all_use_is_lowered_and_a_rate_of_heads_alone_may_be_high():
    (finding,) = diagnose(run_config("optim.lr=0.1"), UNDERFITTED)
    assert finding.tries["optim.lr"] == 0.01
    heads = run_config("optim.head_lr=0.1", "model.trainable=heads")
    (finding,) = diagnose(heads, UNDERFITTED)
    assert finding.tries["optim.head_lr"] == 0.25
    assert "optim.lr" not in finding.tries, "the encoder's rate is not in force"


def test_a_rate_of_the_heads_is_changed_with_that_of_the_encoder():
    (finding,) = diagnose(run_config("optim.head_lr=1e-3"), OVERFITTED)
    assert (finding.tries["optim.lr"], finding.tries["optim.head_lr"]) == (1e-5, 5e-4)


def test_what_was_learned_and_lost_is_a_collapse():
    (finding,) = diagnose(run_config("optim.clip_norm=null"), COLLAPSED)
    assert (finding.name, finding.dimension) == ("collapse", None)
    assert "from 0.80 (epoch 2) to 0.50 in epoch 4" in finding.evidence
    assert finding.tries == {
        "optim.lr": 1e-5,
        "optim.clip_norm": 1.0,
        "optim.warmup_steps": 100,
    }


@pytest.mark.parametrize("monitor", ["loss", "acc_mean", "bal_mean"])
def test_a_run_that_ends_while_it_rises_is_still_improving(monitor):
    (finding,) = diagnose(run_config(f"fit.monitor={monitor}", "fit.epochs=3"), RISING)
    assert finding.name == "still improving"
    assert "validation loss fell from 0.52 to 0.45" in finding.evidence
    assert finding.tries == {"fit.epochs": 6}


@pytest.mark.parametrize(
    "points",
    [
        RISING[:2],
        curve((0.60, 0.65, 0.60), (0.70, 0.72, 0.52), (0.78, 0.725, 0.45)),
        curve((0.60, 0.65, 0.60), (0.70, 0.72, 0.52), (0.78, 0.78, 0.51)),
        curve((0.60, 0.65, 0.60), (0.70, 0.79, 0.52), (0.78, 0.78, 0.45)),
    ],
    ids=["two epochs", "the score is constant", "the loss is constant", "the best is another"],
)
def test_a_run_near_its_best_is_not_still_improving(points):
    assert diagnose(run_config("fit.epochs=3"), points) == []


def test_an_overfitted_run_is_never_told_to_go_on():
    history = curve((0.70, 0.55, 0.80), (0.90, 0.58, 0.70), (1.0, 0.62, 0.60))
    assert named(diagnose(run_config("fit.epochs=3"), history)) == [("overfitting", None)]


def test_what_training_removed_is_measured_from_the_shares_of_the_training_rows():
    # Held-out people are nine in ten of one pole; the training rows are even, and were learned.
    line = epoch(4, train=0.85, val=recalls(positive=0.9, of_positive=0.6, of_negative=0.5))
    line["train"] |= {f"majority_{key}": 0.5 for key in KEYS}
    assert "underfitting" not in {f.name for f in diagnose(run_config(), [line])}
