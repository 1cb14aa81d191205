"""Every rule of the diagnosis of a study: failures, ranges, too few trials."""

import shlex

import pytest
from learning_curves import (
    named,
)

from mbti_ray.config import StudyConfig, load_study
from mbti_ray.config.study import FloatRange, IntRange
from mbti_ray.study.diagnosis import diagnose_study
from mbti_ray.study.records import TrialRecord

pytestmark = pytest.mark.unit


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
        TrialRecord(number, state, [0.9 - 0.01 * number], {address: value})
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
    bad = [
        TrialRecord(n, "FAIL", None, {"optim.lr": lr}) for n, lr in enumerate([2e-4, 4e-4, 9e-4])
    ]
    (finding,) = diagnose_study(study_config(), good + bad)
    assert finding.name == "most trials fail"
    assert finding.evidence == (
        "3 of 5 trials failed, all of them with optim.lr above 5e-05, and no other trial above that"
    )
    assert finding.tries == {"search.optim.lr": {"low": 1e-5, "high": 5e-5, "log": True}}


def test_trials_that_fail_anywhere_are_told_without_a_range():
    bad = [
        TrialRecord(n, "FAIL", None, {"optim.lr": lr}) for n, lr in enumerate([1e-5, 4e-4, 9e-4])
    ]
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
    running = [TrialRecord(n, "RUNNING", None, {"optim.lr": 1e-4}) for n in range(9)]
    assert diagnose_study(study_config(), running) == []
    assert diagnose_study(study_config(), trials_of([1e-4] * 5) + running) == []


@pytest.mark.parametrize(
    "trials",
    [
        trials_of(HIGH_LR),
        trials_of([1.1e-5, 3e-5, 2e-5, 5e-4, 9e-4]),
        trials_of([1e-4] * 3),
        trials_of([2e-5, 5e-5])
        + [TrialRecord(n, "FAIL", None, {"optim.lr": 9e-4}) for n in range(3)],
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
