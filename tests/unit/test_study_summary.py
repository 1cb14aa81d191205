"""Rungs, perturbed points and the summary of a study."""

from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from small_studies import end, study_of

from mbti_ray.config.study import Choices, FloatRange, IntRange
from mbti_ray.study.records import pareto_front, records_of
from mbti_ray.study.sampling import ask_trial, fits, perturb
from mbti_ray.study.store import open_study
from mbti_ray.study.summary import max_epochs, rungs_of, summarize_study

pytestmark = pytest.mark.unit


def test_rungs_are_those_of_successive_halving(tmp_path: Path) -> None:
    settings_ = ["fit.epochs=30", "study.grace_epochs=2", "study.reduction=3"]
    assert rungs_of(study_of(tmp_path, *settings_)) == [2, 6, 18]
    assert rungs_of(study_of(tmp_path, *settings_, "study.scheduler=none")) == []


def test_a_trial_may_have_as_many_epochs_as_the_largest_choice(tmp_path: Path) -> None:
    study = study_of(tmp_path, "fit.epochs=3", **{"fit.epochs": {"choices": [3, 30]}})
    assert (max_epochs(study), rungs_of(study)) == (30, [1, 3, 9, 27])


@given(
    points=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12),
)
def test_the_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for accuracy, brier in points:
        trial = study.ask()
        trial.set_user_attr("values", [accuracy, brier])
        study.tell(trial, [accuracy, brier])
    front = {r.number for r in pareto_front(records_of(study), ("acc_mean", "brier"))}
    # Optuna's own, which is made another way.
    assert front == {t.number for t in study.best_trials}


@given(
    rate=st.floats(1e-4, 1e-2),
    layers=st.integers(1, 9),
    seed=st.integers(0, 999),
)
def test_a_perturbed_point_moves_and_stays_in_its_ranges(
    rate: float, layers: int, seed: int
) -> None:
    import random

    search = {
        "a": FloatRange(low=1e-4, high=1e-2, log=True),
        "b": IntRange(int_low=1, int_high=9),
        "c": Choices(choices=("x", "y")),
        "d": FloatRange(low=0.0, high=0.4),
    }
    before = {"a": rate, "b": layers, "c": "x", "d": 0.0}
    moved = perturb(search, before, random.Random(seed))
    assert fits(search, moved)
    assert moved["b"] != layers or layers in (1, 9)
    assert moved["d"] in (0.0, 0.1)


def test_the_figures_of_a_study_count_what_happened(tmp_path: Path) -> None:
    config = study_of(tmp_path, "fit.epochs=9", "study.reduction=3")
    study = open_study(tmp_path, config, name="study")
    for place in range(6):
        trial = ask_trial(study, config.search)
        assert trial is not None
        end(trial, place / 10, TrialState.PRUNED if place == 1 else TrialState.COMPLETE)
    failed = ask_trial(study, config.search)
    assert failed is not None
    failed.set_user_attr("reason", "diverged")
    study.tell(failed, state=TrialState.FAIL)
    summary = summarize_study(study, config)
    assert summary["counts"] == {"COMPLETE": 5, "FAIL": 1, "PRUNED": 1}
    assert summary["best"] == 5
    assert summary["default"] == {"values": {"optim.lr": config.optim.lr}, "trial": 0}
    assert set(summary["importances"]) == {"optim.lr"}
    assert summary["rungs"][0] == {"epoch": 1, "reached": 6, "stopped": 1, "best": 0.5, "cut": 0.0}
    assert summary["trials"][6]["reason"] == "diverged"


def test_stopped_trials_count_for_the_importance_of_an_address(tmp_path: Path) -> None:
    rates = {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    config = study_of(tmp_path, **rates, **{"fit.batch_size": {"int_low": 8, "int_high": 64}})
    study = open_study(tmp_path, config, name="study")
    for number in range(24):
        trial = ask_trial(study, config.search)
        assert trial is not None
        rate = trial.params["optim.lr"]
        end(trial, rate, TrialState.PRUNED if number else TrialState.COMPLETE)
    shares = summarize_study(study, config)["importances"]
    assert shares["optim.lr"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)
