"""Studies through Ray Tune and Optuna on a real local Ray."""

import json
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import yaml

from mbti_ray.errors import ConfigError
from mbti_ray.evaluate import main as evaluate
from mbti_ray.tune import main as tune

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def write_study(path: Path, data: Path, **changes: object) -> Path:
    study = {
        "preset": "quick",
        "data": {"source": str(data)},
        "fit": {"epochs": 3, "patience": None},
        "study": {"trials": 5, "startup_trials": 2, "scheduler": "asha", "reduction": 2},
        "search": {
            "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "loss.pos_weight": {"low": 0.0, "high": 1.0},
            "model.pooling": {"choices": ["cls", "mean"]},
        },
    }
    path.write_text(yaml.safe_dump({**study, **changes}), "utf-8")
    return path


def open_database(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'optuna.db'}")


def test_a_study_ends_with_the_best_bundle_and_a_database_that_says_what_happened(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(tmp_path / "small.yaml", small_file)
    place = [str(file), f"storage={tmp_path}", "name=study", "--json"]
    assert tune(place) == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    folder = tmp_path / "study"
    trials = open_database(folder).get_trials()
    assert len(trials) == 5
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    for trial in trials:
        # A stopped trial is not recorded as one that came to its end, nor the reverse.
        epochs = len(trial.intermediate_values)
        assert (trial.state.name == "COMPLETE") == (epochs == 3)
        assert epochs == trial.user_attrs["epochs"]
    best = max(trials, key=lambda t: max(t.intermediate_values.values()))
    assert answer["best"] == pytest.approx(best.params)
    assert answer["scores"]["val"]["acc_mean"] == max(best.intermediate_values.values())
    assert pq.read_table(folder / "trials.parquet").num_rows == 5
    # best/ repeats itself: what was scored is what the bundle computes.
    assert yaml.safe_load((folder / "best" / "config.yaml").read_text())["optim"][
        "lr"
    ] == pytest.approx(best.params["optim.lr"])
    assert evaluate([answer["bundle"], "--json"]) == 0
    scores = json.loads(capfd.readouterr().out.splitlines()[-1])["scores"]
    assert scores == pytest.approx(answer["scores"]["test"], abs=1e-5)
    # Resumed with a larger budget it goes on; it does not begin again.
    assert tune([*place, "--resume", "study.trials=7"]) == 0
    after = open_database(folder).get_trials()
    assert [t.params for t in after[:5]] == [t.params for t in trials]
    assert len(after) == 7


def test_a_trial_that_diverges_is_a_failed_trial_and_the_study_goes_on(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(
        tmp_path / "wild.yaml",
        small_file,
        fit={"epochs": 1},
        optim={"warmup_steps": 0},
        study={"trials": 6, "startup_trials": 6, "scheduler": "none"},
        search={"optim.lr": {"choices": [1e-3, 1e30]}},
    )
    assert tune([str(file), f"storage={tmp_path}", "name=wild", "--json"]) == 0
    capfd.readouterr()
    trials = open_database(tmp_path / "wild").get_trials()
    by_rate = {(t.params["optim.lr"], t.state.name) for t in trials}
    assert by_rate == {(1e-3, "COMPLETE"), (1e30, "FAIL")}
    failed = next(t for t in trials if t.state.name == "FAIL")
    assert "diverged" in failed.user_attrs["reason"]


def test_a_trial_of_two_workers_trains_through_torchtrainer(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(
        tmp_path / "wide.yaml",
        small_file,
        fit={"epochs": 1},
        scaling={"workers": 2},
        study={"trials": 1},
    )
    assert tune([str(file), f"storage={tmp_path}", "name=wide", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert answer["trials"] == {"COMPLETE": 1}
    assert Path(answer["bundle"], "bundle.json").is_file()


def test_a_trial_that_a_killed_driver_left_running_is_a_failed_one(tmp_path: Path) -> None:
    from mbti_ray.config import load_study
    from mbti_ray.on_ray.searcher import open_study

    config = load_study(None)
    open_study(tmp_path, config, name="study").ask()
    (trial,) = open_study(tmp_path, config, name="study").get_trials()
    assert trial.state.name == "FAIL"


def test_a_resumed_study_goes_on_with_points_that_it_has_not_tried(tmp_path: Path) -> None:
    from mbti_ray.config import load_study
    from mbti_ray.on_ray.searcher import StudySearcher, open_study

    config = load_study(None)
    tried = []
    for _ in range(3):
        study = open_study(tmp_path, config, name="study")
        tried += [tuple(StudySearcher(study, config).suggest(f"{k}").values()) for k in range(2)]
    assert len(set(tried)) == 6


@pytest.mark.parametrize("storage", ["null", "journal", "sqlite:///{}/elsewhere.db"])
def test_points_to_start_from_are_tried_first_wherever_the_study_is_kept(
    tmp_path: Path, storage: str
) -> None:
    from mbti_ray.config import load_study
    from mbti_ray.on_ray.searcher import StudySearcher, open_study

    point = {
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.01,
        "model.dropout": 0.1,
        "loss.pos_weight": 0.5,
    }
    config = load_study(
        None, [f"study.start=[{json.dumps(point)}]", f"study.storage={storage.format(tmp_path)}"]
    )
    for _ in range(2):
        study = open_study(tmp_path, config, name="study")
    assert StudySearcher(study, config).suggest("a") == point
    assert StudySearcher(study, config).suggest("b") != point
    assert len(open_study(tmp_path, config, name="study").get_trials()) == 2


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    from mbti_ray.config import load_study
    from mbti_ray.on_ray.searcher import open_study

    config = load_study(None, ["study.storage=sqlite:////no/such/folder/study.db"])
    with pytest.raises(ConfigError, match=r"^study\.storage=sqlite:////no/such"):
        open_study(tmp_path, config, name="study")
