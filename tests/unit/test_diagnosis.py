"""Every rule of the diagnosis on synthetic curves: where it fires, and where it just does not."""

import json
import shlex

import pytest

from mbti_ray.config import StudyConfig, get_value, load_run, load_study, override
from mbti_ray.config.study import FloatRange, IntRange
from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.findings import Finding
from mbti_ray.scores.study_diagnosis import StudyTrial, diagnose_study
from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.unit

KEYS = [dimension.key for dimension in DIMENSIONS]


def run_config(*overrides):
    return load_run("default", ["optim.warmup_steps=10", *overrides])


def recalls(*, positive=0.5, of_positive, of_negative):
    """The scores of one dimension from the recall of its two poles."""
    right = positive * of_positive + (1 - positive) * of_negative
    return {
        "acc": right,
        "majority": max(positive, 1 - positive),
        "bal": (of_positive + of_negative) / 2,
        "positive": positive,
        "given": positive * of_positive + (1 - positive) * (1 - of_negative),
    }


def even(accuracy):
    return recalls(of_positive=accuracy, of_negative=accuracy)


def epoch(number, *, train, val, train_loss=0.5, loss=0.5, rows=1000, skipped=0):
    """A metrics record; `train` (accuracies), `val` (scores): for all dimensions or for each."""
    trained = train if isinstance(train, dict) else dict.fromkeys(KEYS, train)
    by_dimension = val if set(val) == set(KEYS) else dict.fromkeys(KEYS, val)
    scores = {"rows": float(rows), "loss": loss, "acc_total": 0.3}
    for kind in ("acc", "majority", "bal", "positive", "given"):
        scores |= {f"{kind}_{key}": by_dimension[key][kind] for key in KEYS}
    for kind in ("acc", "majority", "bal"):
        scores[f"{kind}_mean"] = sum(by_dimension[key][kind] for key in KEYS) / 4
    accuracies = {f"acc_{key}": trained[key] for key in KEYS}
    accuracies |= {f"majority_{key}": by_dimension[key]["majority"] for key in KEYS}
    mean = sum(trained.values()) / 4
    return {
        "epoch": number,
        "step": 100 * number,
        "train": {"loss": train_loss, **accuracies, "acc_mean": mean},
        "seconds": 1.0 * number,
        "skipped_steps": skipped,
        "val": scores,
    }


def curve(*points, **more):
    """A run that is the same in all dimensions: (training accuracy, validation accuracy, loss)."""
    return [
        epoch(number, train=train, val=even(accuracy), loss=loss, **more)
        for number, (train, accuracy, loss) in enumerate(points, start=1)
    ]


def one_apart(key, *, train, val, epochs=4, others=0.85, rows=1000):
    """A run in which three dimensions are learned and one is as given, in every epoch."""
    return [
        epoch(
            number,
            train=dict.fromkeys(KEYS, others) | {key: train},
            val=dict.fromkeys(KEYS, even(others)) | {key: val},
            rows=rows,
        )
        for number in range(1, epochs + 1)
    ]


def named(findings):
    return [(finding.name, finding.dimension) for finding in findings]


HEALTHY = curve((0.60, 0.65, 0.6), (0.80, 0.79, 0.45), (0.88, 0.84, 0.38), (0.90, 0.845, 0.375))
OVERFITTED = curve((0.60, 0.62, 0.64), (0.75, 0.66, 0.61), (0.88, 0.66, 0.75), (0.95, 0.65, 0.93))
UNDERFITTED = curve((0.52, 0.51, 0.69), (0.58, 0.57, 0.68), (0.60, 0.58, 0.68))
COLLAPSED = curve((0.70, 0.72, 0.55), (0.80, 0.79, 0.45), (0.52, 0.50, 0.70), (0.5, 0.5, 0.70))
RISING = curve((0.60, 0.65, 0.60), (0.70, 0.72, 0.52), (0.78, 0.78, 0.45))
STUCK = one_apart("sn", train=0.60, val=recalls(positive=0.6, of_positive=0.9, of_negative=0.1))
ONE_POLE = one_apart("sn", train=0.9, val=recalls(positive=0.9, of_positive=1.0, of_negative=0.01))
MEMORIZED = one_apart("jp", train=0.80, val=even(0.51))
SKIPPING = [{**record, "skipped_steps": 60 * record["epoch"]} for record in HEALTHY]


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


def test_a_dimension_that_stays_while_others_learn_is_named_with_weights_of_its_own():
    (finding,) = diagnose(run_config(), STUCK)
    assert (finding.name, finding.dimension) == ("dimension does not move", "sn")
    assert "training accuracy 0.60, validation 0.58 in epoch 4, majority 0.60" in finding.evidence
    # N is the commoner pole here: the seed's 3.0 would drive it further to N.
    assert finding.tries == {"loss.pos_weight": [1.0, 0.667, 1.0, 1.0], "loss.kind": "focal"}


@pytest.mark.parametrize(
    ("setting", "tries"),
    [
        ("[1.0, 3.0, 2.0, 1.0]", {"loss.pos_weight": [1.0, 0.667, 2.0, 1.0]}),
        ("balanced", {}),
        ("0.5", {}),
        ("0", {"loss.pos_weight": [1.0, 0.667, 1.0, 1.0]}),
    ],
)
def test_weights_of_other_dimensions_are_left_as_they_are(setting, tries):
    config = run_config(f"loss.pos_weight={setting}", "loss.kind=focal")
    (finding,) = diagnose(config, STUCK)
    assert finding.tries == tries


def test_a_dimension_of_even_poles_gets_no_weights():
    (finding,) = diagnose(run_config(), one_apart("tf", train=0.53, val=even(0.52)))
    assert finding.tries == {"loss.kind": "focal"}


@pytest.mark.parametrize(
    ("train", "val"), [(0.53, 0.60), (0.66, 0.58)], ids=["it validates", "it trains"]
)
def test_a_dimension_that_moves_a_little_is_not_stuck(train, val):
    assert diagnose(run_config(), one_apart("tf", train=train, val=even(val))) == []


def test_a_dimension_that_few_rows_cannot_tell_from_a_coin_is_stuck():
    few = one_apart("tf", train=0.55, val=even(0.58), rows=100)
    assert named(diagnose(run_config(), few)) == [("dimension does not move", "tf")]
    assert diagnose(run_config(), one_apart("tf", train=0.55, val=even(0.58), rows=2000)) == []


def test_one_dimension_learned_by_heart_is_overfitting_in_it():
    (finding,) = diagnose(run_config(), MEMORIZED)
    assert (finding.name, finding.dimension) == ("overfitting", "jp")
    assert finding.text().startswith("overfitting (J/P): training accuracy 0.80, validation 0.51")
    assert finding.tries["model.dropout"] == 0.3


def test_one_pole_given_to_nearly_all_is_imbalance_and_nothing_else():
    (finding,) = diagnose(run_config(), ONE_POLE)
    assert (finding.name, finding.dimension) == ("imbalance", "sn")
    assert finding.evidence == (
        "90% of the validation rows are N and 100% are predicted N in epoch 1: accuracy 0.90, "
        "balanced accuracy 0.51"
    )
    assert finding.tries == {
        "loss.pos_weight": "balanced",
        "scoring.threshold": "balanced_accuracy",
        "fit.monitor": "bal_mean",
    }


def test_imbalance_is_seen_from_either_pole():
    val = recalls(positive=0.2, of_positive=0.01, of_negative=1.0)
    (finding,) = diagnose(run_config(), one_apart("ei", train=0.8, val=val))
    assert finding.dimension == "ei"
    assert finding.evidence.startswith("80% of the validation rows are I and 100% are predicted I")


@pytest.mark.parametrize(
    "val",
    [
        recalls(positive=0.9, of_positive=0.99, of_negative=0.30),
        recalls(positive=0.69, of_positive=1.0, of_negative=0.02),
        recalls(positive=0.9, of_positive=0.0, of_negative=1.0),
    ],
    ids=["the rarer pole is given", "the poles are not so uneven", "the other pole is given"],
)
def test_no_imbalance_without_uneven_poles_and_one_answer(val):
    history = one_apart("sn", train=0.95, val=val)
    assert "imbalance" not in dict(named(diagnose(run_config(), history)))


def test_settings_that_balance_already_are_not_tried_again():
    config = run_config("loss.pos_weight=1", "fit.monitor=bal_mean")
    (finding,) = diagnose(config, ONE_POLE)
    assert finding.tries == {"scoring.threshold": "balanced_accuracy"}
    assert diagnose(run_config("loss.pos_weight=[1, 2, 1, 1]"), ONE_POLE)[0].tries == {
        "scoring.threshold": "balanced_accuracy",
        "fit.monitor": "bal_mean",
    }


def test_a_dimension_with_one_pole_only_is_not_judged():
    val = recalls(positive=1.0, of_positive=1.0, of_negative=0.0) | {"bal": 1.0}
    assert diagnose(run_config(), one_apart("sn", train=1.0, val=val)) == []
    history = [epoch(number, train=1.0, val=val) for number in (1, 2, 3)]
    assert diagnose(run_config(), history) == []


@pytest.mark.parametrize(("warmup", "found"), [(201, True), (200, False)])
def test_a_warmup_beyond_half_of_the_planned_steps_is_too_long(warmup, found):
    # 100 steps an epoch; the run planned 4 epochs and stopped after 3.
    config = run_config(f"optim.warmup_steps={warmup}", "fit.epochs=4")
    findings = diagnose(config, HEALTHY[:3])
    assert ("warm-up too long" in dict(named(findings))) is found
    if found:
        assert (
            findings[0].evidence == "the learning rate warms up for 201 steps, and the run has 400"
        )
        assert findings[0].tries == {"optim.warmup_steps": 40}


def test_a_rate_that_never_reached_its_peak_is_not_blamed():
    config = run_config("optim.warmup_steps=500", "fit.epochs=3")
    warmup, underfitting = diagnose(config, UNDERFITTED)
    assert (warmup.name, underfitting.name) == ("warm-up too long", "underfitting")
    assert "optim.lr" not in underfitting.tries


@pytest.mark.parametrize(("skipped", "found"), [(10, False), (20, False), (21, True)])
def test_more_skipped_steps_than_loss_scaling_needs_to_begin_are_found(skipped, found):
    history = [{**line, "skipped_steps": skipped} for line in HEALTHY]  # of 400 steps
    assert bool(diagnose(run_config(), history)) is found


@pytest.mark.parametrize(("present", "tried"), [("16-mixed", "bf16-mixed"), ("auto", "32")])
def test_a_precision_with_more_range_is_tried_against_skipped_steps(present, tried):
    (finding,) = diagnose(run_config(f"fit.precision={present}"), SKIPPING)
    assert finding.evidence == "loss scaling skipped 240 of 400 steps up to epoch 4"
    assert finding.tries == {"fit.precision": tried}


@pytest.mark.parametrize(
    "history",
    [OVERFITTED, UNDERFITTED, COLLAPSED, RISING, STUCK, ONE_POLE, MEMORIZED, SKIPPING],
)
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.dropout=0", "optim.weight_decay=0", "fit.patience=null", "optim.clip_norm=null"],
        ["model.dropout=0.45", "optim.weight_decay=0.3", "fit.patience=1", "fit.epochs=1"],
        ["model.dropout=0.97", "optim.weight_decay=7.123456", "optim.head_lr=3.3333e-3"],
        ["loss.pos_weight=[9, 0.1, 1, 1]", "loss.kind=focal", "fit.monitor=bal_mean"],
        ["loss.pos_weight=balanced", "scoring.threshold=balanced_accuracy", "optim.lr=1"],
        ["fit.precision=32", "optim.warmup_steps=0", "model.trainable=heads"],
        ["fit.precision=auto", "optim.warmup_steps=100000", "fit.monitor=loss"],
    ],
)
def test_every_value_to_try_is_allowed_new_and_can_be_given_on_the_command_line(history, overrides):
    config = run_config(*overrides)
    for finding in diagnose(config, history):
        tried = override(config, finding.tries)
        for address in finding.tries:
            assert get_value(tried, address) != get_value(config, address), address
        arguments = shlex.split(finding.command())
        assert load_run("default", ["optim.warmup_steps=10", *overrides, *arguments]) == tried
        assert json.loads(json.dumps(finding.as_dict())) == finding.as_dict()


@pytest.mark.parametrize("history", [OVERFITTED, UNDERFITTED, RISING, STUCK, ONE_POLE, MEMORIZED])
def test_following_the_advice_over_and_over_comes_to_an_end_or_stays_allowed(history):
    config = run_config()
    for _ in range(12):
        for finding in diagnose(config, history):
            config = override(config, finding.tries)
    assert config.model.dropout <= 0.5
    assert config.optim.weight_decay <= 0.5


def test_a_finding_is_said_in_one_line():
    finding = Finding("stuck", "sn", "it stays", {"loss.pos_weight": [1.0, 0.5], "optim.lr": 1e-5})
    assert finding.text() == "stuck (S/N): it stays; try 'loss.pos_weight=[1.0,0.5]' optim.lr=1e-05"
    assert Finding("stuck", None, "it stays", {}).text() == "stuck: it stays"


LR = FloatRange(low=1e-5, high=1e-3, log=True)


def study_config(trials=20, objective="acc_mean", **search):
    tree = load_study(None).model_dump()
    searched = {address.replace("__", "."): values for address, values in search.items()}
    tree["search"] = {a: v.model_dump() for a, v in (searched or {"optim.lr": LR}).items()}
    tree["study"] |= {"trials": trials, "objective": objective}
    tree["optim"]["lr"] = 2e-5
    return StudyConfig.model_validate(tree)


def trials_of(values, *, address="optim.lr", state="COMPLETE", first=0):
    """Trials that get worse in the order of the values."""
    return [
        StudyTrial(number, state, 0.9 - 0.01 * number, {address: value})
        for number, value in enumerate(values, start=first)
    ]


HIGH_LR = [9.7e-4, 6e-4, 4e-4, 1e-4, 3e-5, 1.5e-5]


def test_a_study_whose_best_is_inside_has_no_finding():
    inside = trials_of([1e-4, 2e-4, 5e-5, 9e-4, 1.1e-5])
    assert diagnose_study(study_config(), inside) == []
    assert diagnose_study(study_config(), []) == []


def test_a_best_value_at_the_high_end_widens_the_range_on_its_own_scale():
    (finding,) = diagnose_study(study_config(), trials_of(HIGH_LR))
    assert finding.name == "best at the edge of a range"
    assert finding.evidence == (
        "the best trial, 0 (acc_mean 0.9), has optim.lr=0.00097, at the high end of the range "
        "1e-05 to 0.001, and the next 2 lie in the same half"
    )
    assert finding.tries == {"search.optim.lr": {"low": 1e-5, "high": 0.01, "log": True}}


def test_a_best_value_at_the_low_end_widens_it_downwards():
    low = trials_of([1.1e-5, 3e-5, 2e-5, 5e-4, 9e-4])
    (finding,) = diagnose_study(study_config(), low)
    assert finding.tries == {"search.optim.lr": {"low": 1e-6, "high": 1e-3, "log": True}}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([8.0e-4, *HIGH_LR[1:]], True),
        ([7.8e-4, *HIGH_LR[1:]], False),
        ([9.7e-4, 2e-5, *HIGH_LR[2:]], False),
        (HIGH_LR[:4], False),
    ],
    ids=["within 5 %", "beyond 5 %", "the second disagrees", "four trials"],
)
def test_an_edge_is_within_5_percent_of_the_log_range_and_others_agree(values, found):
    findings = diagnose_study(study_config(), trials_of(values))
    assert ("best at the edge of a range" in dict(named(findings))) is found


def test_the_best_of_a_loss_is_the_lowest():
    findings = diagnose_study(study_config(objective="loss"), trials_of(HIGH_LR[::-1]))
    assert findings[0].tries == {"search.optim.lr": {"low": 1e-5, "high": 0.01, "log": True}}


def test_a_range_of_whole_numbers_is_widened_by_whole_numbers():
    config = study_config(fit__epochs=IntRange(int_low=2, int_high=7))
    trials = trials_of([7, 6, 5, 3, 2], address="fit.epochs")
    (finding,) = diagnose_study(config, trials)
    assert finding.tries == {"search.fit.epochs": {"int_low": 2, "int_high": 10}}


@pytest.mark.parametrize(
    ("low", "high", "values", "tries"),
    [
        (0.0, 0.4, [0.0, 0.01, 0.1, 0.3, 0.4], None),
        (0.5, 0.9, [0.9, 0.8, 0.8, 0.6, 0.5], {"low": 0.5, "high": 0.95, "log": False}),
        (0.1, 0.3, [0.3, 0.3, 0.25, 0.2, 0.1], {"low": 0.1, "high": 0.4, "log": False}),
    ],
)
def test_a_range_is_not_widened_beyond_what_the_setting_allows(low, high, values, tries):
    config = study_config(model__dropout=FloatRange(low=low, high=high))
    findings = diagnose_study(config, trials_of(values, address="model.dropout"))
    assert [f.tries for f in findings] == (
        [] if tries is None else [{"search.model.dropout": tries}]
    )


def test_choices_have_no_edge():
    config = load_study(
        None, ["search={}", "search.fit.batch_size={choices: [8, 16, 32]}", "study.trials=9"]
    )
    config = config.model_copy(
        update={"search": {"fit.batch_size": config.search["fit.batch_size"]}}
    )
    assert diagnose_study(config, trials_of([32] * 5, address="fit.batch_size")) == []


def test_trials_that_mostly_fail_are_the_one_finding_with_where_they_do():
    good = trials_of([2e-5, 5e-5])
    bad = [StudyTrial(n, "FAIL", None, {"optim.lr": lr}) for n, lr in enumerate([2e-4, 4e-4, 9e-4])]
    (finding,) = diagnose_study(study_config(), good + bad)
    assert finding.name == "most trials fail"
    assert finding.evidence == (
        "3 of 5 trials failed, all of them with optim.lr above 5e-05, and no other trial above that"
    )
    assert finding.tries == {"search.optim.lr": {"low": 1e-5, "high": 5e-5, "log": True}}


def test_trials_that_fail_anywhere_are_told_without_a_range():
    bad = [StudyTrial(n, "FAIL", None, {"optim.lr": lr}) for n, lr in enumerate([1e-5, 4e-4, 9e-4])]
    (finding,) = diagnose_study(study_config(), trials_of([2e-5]) + bad)
    assert (finding.evidence, finding.tries) == ("3 of 4 trials failed", {})
    (finding,) = diagnose_study(study_config(), bad)
    assert finding.tries == {}
    half = diagnose_study(study_config(), trials_of([2e-5, 3e-5, 4e-5]) + bad)
    assert "most trials fail" not in dict(named(half))


@pytest.mark.parametrize(("complete", "wanted"), [(4, 25), (2, 50), (1, 80), (0, 80)])
def test_fewer_than_five_complete_trials_are_too_few(complete, wanted):
    trials = trials_of([1e-4] * complete) + trials_of([1e-4] * 6, state="PRUNED", first=complete)
    (finding,) = diagnose_study(study_config(trials=20), trials)
    assert finding.name == "few trials complete"
    assert finding.evidence.startswith(
        f"{complete} of {complete + 6} trials completed (6 stopped early)"
    )
    assert finding.tries == {"study.trials": wanted}


def test_trials_that_are_not_over_are_not_counted():
    running = [StudyTrial(n, "RUNNING", None, {"optim.lr": 1e-4}) for n in range(9)]
    assert diagnose_study(study_config(), running) == []
    assert diagnose_study(study_config(), trials_of([1e-4] * 5) + running) == []


@pytest.mark.parametrize(
    "trials",
    [
        trials_of(HIGH_LR),
        trials_of([1.1e-5, 3e-5, 2e-5, 5e-4, 9e-4]),
        trials_of([1e-4] * 3),
        trials_of([2e-5, 5e-5])
        + [StudyTrial(n, "FAIL", None, {"optim.lr": 9e-4}) for n in range(3)],
    ],
    ids=["high end", "low end", "few", "failing"],
)
def test_what_a_study_is_to_try_can_be_given_to_a_study(trials):
    config = study_config()
    (finding,) = diagnose_study(config, trials)
    changed = load_study(None, ["study.try_default=false", *shlex.split(finding.command())])
    for address, value in finding.tries.items():
        if address == "study.trials":
            assert changed.study.trials == value
        else:
            assert changed.search["optim.lr"] == FloatRange.model_validate(value)


def test_what_training_removed_is_measured_from_the_shares_of_the_training_rows():
    # Held-out people are nine in ten of one pole; the training rows are even, and were learned.
    line = epoch(4, train=0.85, val=recalls(positive=0.9, of_positive=0.6, of_negative=0.5))
    line["train"] |= {f"majority_{key}": 0.5 for key in KEYS}
    assert "underfitting" not in {f.name for f in diagnose(run_config(), [line])}
