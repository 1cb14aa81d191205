"""Studies without Ray: no point is repeated, and the database records what happened."""

import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from small_studies import end, study_of

from mbti_ray.config import get_value, load_study
from mbti_ray.config.search_space import default_point, is_active
from mbti_ray.config.study import Choices, FloatRange, IntRange
from mbti_ray.errors import ConfigError, RunError
from mbti_ray.study import store
from mbti_ray.study.records import best_of, record_of, records_of
from mbti_ray.study.sampling import ask_trial, fits
from mbti_ray.study.store import guarded, open_study
from mbti_ray.study.summary import counts_of

pytestmark = pytest.mark.unit

CONDITIONAL = {
    "loss.gamma": FloatRange(low=0.5, high=4.0, when={"loss.kind": "focal"}),
    "loss.kind": Choices(choices=("bce", "focal")),
    "model.dropout": FloatRange(low=0.0, high=0.5),
}


def test_a_conditional_address_is_suggested_only_under_its_condition() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    kinds = set()
    for _ in range(20):
        trial = ask_trial(study, CONDITIONAL)
        assert trial is not None
        assert ("loss.gamma" in trial.params) == (trial.params["loss.kind"] == "focal")
        assert fits(CONDITIONAL, trial.params)
        kinds.add(trial.params["loss.kind"])
        study.tell(trial, 0.5)
    assert kinds == {"bce", "focal"}


@settings(max_examples=20, deadline=None)
@given(
    poolings=st.integers(2, 4),
    low=st.integers(0, 3),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_every_point_of_a_small_search_is_tried_once_and_then_none(
    poolings: int, low: int, width: int, seed: int
) -> None:
    search = {
        "a": Choices(choices=tuple(range(poolings))),
        "b": IntRange(int_low=low, int_high=low + width, when={"a": (0, 1)}),
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    points = []
    while (trial := ask_trial(study, search)) is not None:
        points.append(tuple(sorted(trial.params.items())))
        study.tell(trial, float(len(points)))
    assert len(points) == len(set(points)) == 2 * (width + 1) + poolings - 2


def test_the_first_trial_is_the_config_without_a_search(tmp_path: Path) -> None:
    config = study_of(tmp_path)
    trial = ask_trial(open_study(tmp_path, config, name="study"), config.search)
    assert trial is not None
    assert trial.params == {"optim.lr": config.optim.lr}
    assert record_of(open_study(tmp_path, config, name="study").trials[0]).is_default
    without = study_of(tmp_path, "study.try_default=false")
    other = ask_trial(open_study(tmp_path, without, name="other"), without.search)
    assert other is not None
    assert other.params != trial.params


@pytest.mark.parametrize("setting", ["none", "balanced", "0.25"])
def test_words_and_nulls_have_their_place_on_the_scale(tmp_path: Path, setting: str) -> None:
    ranged = {"low": 0.0, "high": 1.0}
    config = study_of(
        tmp_path,
        f"loss.pos_weight={setting}",
        **{
            "loss.pos_weight": ranged,
            "loss.power.T": ranged,
            "optim.head_lr": {"low": 1e-4, "high": 1e-1},
        },
    )
    power = {"none": 0.0, "balanced": 1.0}.get(setting, 0.25)
    assert default_point(config) == {
        "loss.pos_weight": power,
        "loss.power.T": power,
        "optim.head_lr": config.optim.lr,
    }


def test_a_default_that_the_search_does_not_hold_is_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim.lr=0.5 in the config.* 0.0001 to 0.01"):
        study_of(tmp_path, "optim.lr=0.5")
    assert study_of(tmp_path, "optim.lr=0.5", "study.try_default=false").optim.lr == 0.5


@pytest.mark.parametrize(
    ("address", "values", "message"),
    [
        ("loss.gamma", {"low": 1, "high": 2, "when": {"loss.kin": "focal"}}, "is not searched"),
        ("loss.gamma", {"low": 1, "high": 2, "when": {"loss.kind": "focsl"}}, "is never sampled"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(
    tmp_path: Path, address: str, values: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study_of(tmp_path, **{"loss.kind": {"choices": ["bce", "focal"]}, address: values})


def test_conditions_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are circular"):
        study_of(
            tmp_path,
            **{
                "loss.kind": {"choices": ["bce", "focal"], "when": {"model.pooling": "cls"}},
                "model.pooling": {"choices": ["cls", "mean"], "when": {"loss.kind": "focal"}},
            },
        )


def test_what_a_killed_driver_left_running_fails_and_its_point_is_tried_again(
    tmp_path: Path,
) -> None:
    config = study_of(tmp_path)
    lost = ask_trial(open_study(tmp_path, config, name="study"), config.search)
    assert lost is not None
    study = open_study(tmp_path, config, name="study")
    again = ask_trial(study, config.search)
    assert again is not None
    assert again.params == lost.params
    first, second = records_of(study)
    assert (first.state, first.reason) == ("FAIL", "the process that ran the study was killed")
    assert second.retry_of == first.number
    assert counts_of([first, second]) == {"FAIL": 1, "RUNNING": 1}


@pytest.mark.parametrize("storage", ["null", "journal", "sqlite:///{}/elsewhere.db"])
def test_a_resumed_study_goes_on_with_points_that_it_has_not_tried(
    tmp_path: Path, storage: str
) -> None:
    config = study_of(tmp_path, f"study.storage={storage.format(tmp_path)}")
    tried = []
    for _ in range(3):
        study = open_study(tmp_path, config, name="study")
        for _ in range(2):
            trial = ask_trial(study, config.search)
            assert trial is not None
            end(trial, 0.5)
            tried.append(trial.params["optim.lr"])
    assert len(set(tried)) == 6
    assert counts_of(records_of(study)) == {"COMPLETE": 6}


def test_points_to_start_from_are_tried_after_the_default(tmp_path: Path) -> None:
    config = study_of(tmp_path, "study.start=[{optim.lr: 0.0007}]")
    for _ in range(2):
        study = open_study(tmp_path, config, name="study")
    rates = [ask_trial(study, config.search).params["optim.lr"] for _ in range(3)]  # type: ignore[union-attr]
    assert rates[:2] == [config.optim.lr, 0.0007]
    assert rates[2] not in rates[:2]


def earlier_study(folder: Path, values: dict[float, float]) -> Path:
    place = folder / "earlier"
    place.mkdir()
    config = study_of(folder, "study.try_default=false", name="earlier")
    (place / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), "utf-8")
    study = open_study(place, config, name="earlier")
    for rate, value in values.items():
        study.enqueue_trial({"optim.lr": rate})
        trial = ask_trial(study, config.search)
        assert trial is not None
        end(trial, value)
    return place


def test_a_warm_start_takes_trials_over_that_are_not_counted_and_tries_their_best(
    tmp_path: Path,
) -> None:
    place = earlier_study(tmp_path, {3e-4: 0.6, 5e-3: 0.8, 9e-3: 0.7})
    narrower = {"optim.lr": {"low": 1e-3, "high": 2e-2, "log": True}}
    config = study_of(tmp_path, f"study.warm_start=[{place}]", **narrower)
    study = open_study(tmp_path, config, name="study")
    trials = [ask_trial(study, config.search) for _ in range(2)]
    assert [t.params["optim.lr"] for t in trials if t] == [config.optim.lr, 5e-3]
    records = records_of(study)
    # The one outside of this search stayed where it was.
    assert [r.imported for r in records if r.imported] == ["earlier, trial 1", "earlier, trial 2"]
    assert counts_of(records) == {"RUNNING": 2}
    assert best_of(records, config.objectives) is None
    assert trials[0] is not None
    end(trials[0], 0.1)
    best = best_of(records_of(study), config.objectives)
    assert best is not None
    assert best.values == [0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["study.objective=loss"], "optimized acc_mean, and this study optimizes loss"),
        (["search.optim.lr={low: 0.002, high: 0.0029}", "study.try_default=false"], "none of its"),
    ],
)
def test_a_warm_start_that_cannot_help_is_refused(
    tmp_path: Path, changes: list[str], message: str
) -> None:
    place = earlier_study(tmp_path, {3e-4: 0.6})
    config = study_of(tmp_path, f"study.warm_start=[{place}]", *changes)
    with pytest.raises(ConfigError, match=message):
        open_study(tmp_path, config, name="study")
    missing = study_of(tmp_path, f"study.warm_start=[{tmp_path / 'nowhere'}]")
    with pytest.raises(ConfigError, match="is not the folder of a study"):
        open_study(tmp_path, missing, name="other")


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    config = load_study(None, ["study.storage=sqlite:////no/such/folder/study.db"])
    with pytest.raises(ConfigError, match=r"^study\.storage=sqlite:////no/such.*unable to open"):
        open_study(tmp_path, config, name="study")


class Held(optuna.samplers.TPESampler):  # type: ignore[misc]
    """Another process takes the database in the middle of an `ask`, for a while."""

    def __init__(self, database: Path, for_s: float) -> None:
        super().__init__(seed=1)
        self._database = database
        self._for_s = for_s
        self.releasing: threading.Timer | None = None

    def before_trial(self, study: object, trial: object) -> None:
        # The trial is RUNNING in the database by now, and its values are not.
        other = sqlite3.connect(self._database, check_same_thread=False, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        self.releasing = threading.Timer(self._for_s, other.close)
        self.releasing.start()


def test_a_database_that_is_taken_within_an_ask_is_waited_for_and_the_trial_is_one(
    tmp_path: Path,
) -> None:
    config = study_of(tmp_path)
    study = open_study(tmp_path, config, name="study")
    study.sampler = sampler = Held(tmp_path / "optuna.db", for_s=0.5)
    trial = guarded(lambda: ask_trial(study, config.search), where="study")
    assert trial is not None
    assert trial.params
    assert sampler.releasing is not None
    sampler.releasing.join()
    assert counts_of(records_of(study)) == {"RUNNING": 1}


def test_a_database_that_stays_held_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.1)
    config = study_of(tmp_path)
    study = open_study(tmp_path, config, name="study")
    study.sampler = sampler = Held(tmp_path / "optuna.db", for_s=600)
    with pytest.raises(RunError, match=r"^study: .*\(database is locked\).*--resume$"):
        guarded(lambda: ask_trial(study, config.search), where="study")
    assert sampler.releasing is not None
    sampler.releasing.cancel()
    sampler.releasing.function()
    # A resumed study tries what was interrupted again.
    resumed = open_study(tmp_path, config, name="study")
    assert counts_of(records_of(resumed)) == {"FAIL": 1}


def test_an_address_is_active_by_the_values_of_the_others() -> None:
    gamma = CONDITIONAL["loss.gamma"]
    assert is_active(gamma, {"loss.kind": "focal"})
    assert not is_active(gamma, {"loss.kind": "bce"})
    assert not is_active(gamma, {})
    assert get_value(load_study(None), "loss.power.E") is None
