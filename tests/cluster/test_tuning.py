"""Studies through Ray Tune and Optuna on a real local Ray."""

import json
import shlex
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from long_run import Undisturbed

from mbti_ray.config import load_run, load_study
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import ConfigError
from mbti_ray.evaluate import main as evaluate
from mbti_ray.inference.bundle import load_row_hashes
from mbti_ray.study.records import best_of, pareto_front, records_of
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


def test_a_study_ends_with_the_best_bundle_what_happened_and_a_command_that_repeats_the_best(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of its trials some diverge."""
    file = write_study(
        tmp_path / "wild.yaml",
        small_file,
        optim={"warmup_steps": 0},
        study={"trials": 6, "startup_trials": 6, "scheduler": "none"},
        search={
            "optim.lr": {"choices": [3e-3, 1e30]},
            "model.dropout": {"low": 0.0, "high": 0.4},
            "model.pooling": {"choices": ["cls", "mean"]},
        },
    )
    assert tune([str(file), f"storage={tmp_path}", "name=wild", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    folder = tmp_path / "wild"
    trials = open_database(folder).get_trials()
    assert len(trials) == 6
    by_rate = {(t.params["optim.lr"], t.state.name) for t in trials}
    assert by_rate == {(3e-3, "COMPLETE"), (1e30, "FAIL")}
    failed = next(t for t in trials if t.state.name == "FAIL")
    assert "diverged" in failed.user_attrs["reason"]
    # What raises would raise again.
    assert not any("retry_of" in t.user_attrs for t in trials)
    for trial in trials:
        assert len(trial.intermediate_values) == (3 if trial.state.name == "COMPLETE" else 0)
    complete = [t for t in trials if t.state.name == "COMPLETE"]
    assert [t.user_attrs["epochs"] for t in complete] == [3] * len(complete)
    best = max(complete, key=lambda t: max(t.intermediate_values.values()))
    assert result["best"] == pytest.approx(best.params)
    assert result["scores"]["val"]["acc_mean"] == max(best.intermediate_values.values())
    assert pq.read_table(folder / "trials.parquet").num_rows == 6
    # best/ repeats itself: what was scored is what the bundle computes.
    written = yaml.safe_load((folder / "best" / "config.yaml").read_text())
    assert written["optim"]["lr"] == pytest.approx(best.params["optim.lr"])
    assert written["model"]["dropout"] == pytest.approx(best.params["model.dropout"])
    assert evaluate([result["bundle"], "--json"]) == 0
    scores = json.loads(capfd.readouterr().out.splitlines()[-1])["scores"]
    assert scores == pytest.approx(result["scores"]["test"], abs=1e-5)

    python, option, module, *arguments = shlex.split(result["command"])
    assert (python, option, module) == ("python", "-m", "mbti_ray.train")
    # As `test_faults` shows, Ray trains the weights that the loop alone trains.
    config = load_run(arguments[0], arguments[1:])
    torch.set_num_threads(1)
    again = run(config, prepare_dataset(config, tmp_path / "cache-of-again"), Worker())
    Undisturbed(again.model.state_dict(), []).assert_same_weights(Path(result["bundle"]))


@pytest.mark.long
def test_a_trial_on_folds_is_their_mean_and_the_best_is_scored_on_all_rows_and_trained_on_them(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(
        tmp_path / "folds.yaml",
        small_file,
        fit={"epochs": 2, "patience": None},
        study={"trials": 2, "scheduler": "none"},
    )
    place = [f"storage={tmp_path}", "name=folds"]
    assert tune([str(file), "data.folds=3", *place, "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    records = records_of(open_database(tmp_path / "folds"))
    for record in records:
        assert record.state == "COMPLETE"
        assert record.values is not None
        assert record.seeds is not None
        assert len(record.seeds) == 3
        assert record.values[0] == pytest.approx(sum(record.seeds) / 3)
    scores = result["scores"]
    assert scores["scorecard"]["rows"] == 313
    best = best_of(records, ("acc_mean",))
    assert best is not None
    # The winner, trained again: the folds are as good as they were in its trial.
    assert scores["val"]["acc_mean"] == pytest.approx(best.values[0])
    hashes = load_row_hashes(Path(result["bundle"]))
    assert hashes is not None
    assert len(hashes["train"]) == 313


def test_a_trial_of_two_workers_trains_through_torchtrainer(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    file = write_study(
        tmp_path / "wide.yaml",
        small_file,
        fit={"epochs": 1},
        scaling={"workers": 2},
        study={"trials": 1},
    )
    assert tune([str(file), f"storage={tmp_path}", "name=wide", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["trials"] == {"COMPLETE": 1}
    assert Path(result["bundle"], "bundle.json").is_file()
    # Each is a run of its own; a person finds it by its study.
    runs = ray.get(get_state_actor().get_train_runs.remote()).values()
    assert "wide/trials/trial-0000/checkpoints" in {run.name for run in runs}


def test_several_objectives_end_with_a_front_several_seeds_with_their_mean_and_some_are_stopped(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(
        tmp_path / "pareto.yaml",
        small_file,
        fit={"epochs": 2, "patience": None},
        study={
            "trials": 4,
            "startup_trials": 2,
            "objective": ["acc_mean", "brier"],
            "seeds": 2,
            "reduction": 2,
        },
    )
    assert tune([str(file), f"storage={tmp_path}", "name=pareto", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    study = open_database(tmp_path / "pareto")
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    records = records_of(study)
    assert {r.state for r in records} <= {"COMPLETE", "PRUNED"}
    # A stopped trial is not recorded as one that came to its end, nor the reverse.
    complete = [r for r in records if r.state == "COMPLETE"]
    assert complete == [r for r in records if len(r.evaluations) == 2]
    assert complete
    for record in complete:
        assert record.seeds is not None
        assert record.values is not None
        assert len(record.seeds) == 2
        assert record.values[0] == pytest.approx(sum(record.seeds) / 2)
        # Two epochs of the first seed were seen by the scheduler.
        assert [e[0] for e in record.evaluations] == [1, 2]
    assert result["front"] == [r.number for r in pareto_front(records, ("acc_mean", "brier"))]
    assert records[0].is_default
    first = next(r for r in records if r.params == result["best"])
    # The bundle is that of the first seed, whose own score is among those of the trial.
    best = max(value for _, value, _ in first.evaluations)
    assert result["scores"]["val"]["acc_mean"] == pytest.approx(best)


@pytest.mark.long
def test_a_population_copies_its_best_and_says_what_each_trained_with(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_study(
        tmp_path / "population.yaml",
        small_file,
        fit={"epochs": 6, "patience": None},
        study={"trials": 4, "startup_trials": 4, "scheduler": "pbt"},
        search={"optim.lr": {"low": 1e-6, "high": 1e-2, "log": True}},
    )
    assert tune([str(file), f"storage={tmp_path}", "name=population", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    records = records_of(open_database(tmp_path / "population"))
    assert {r.state for r in records} == {"COMPLETE"}
    copies = [r for r in records if r.schedule]
    assert copies
    for record in copies:
        assert record.last_params != record.params
        assert 1e-6 <= record.last_params["optim.lr"] <= 1e-2
    best = best_of(records, ("acc_mean",))
    assert best is not None
    # Whatever was copied, the bundle has the scores that the study records for its trial.
    assert best.values == [pytest.approx(result["scores"]["val"]["acc_mean"])]


@pytest.mark.long
def test_hours_that_are_over_and_points_that_are_used_up_end_a_study_early(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = [f"storage={tmp_path}", "--json"]
    short = write_study(
        tmp_path / "short.yaml",
        small_file,
        fit={"epochs": 1},
        study={"trials": None, "hours": 0.0005, "scheduler": "none"},
    )
    assert tune([str(short), *place, "name=short"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["ended_early"] == "study.hours=0.0005 have passed"
    few = write_study(
        tmp_path / "few.yaml",
        small_file,
        fit={"epochs": 1},
        study={"trials": 9, "scheduler": "none"},
        search={"model.pooling": {"choices": ["cls", "mean"]}},
    )
    assert tune([str(few), *place, "name=few"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["ended_early"] == "every point of the search has been tried"
    assert result["trials"] == {"COMPLETE": 2}


def test_two_workers_do_not_share_a_gpu(small_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ranks that share a GPU only wait for each other"):
        load_study(None, ["scaling.workers=2", "scaling.gpus=0.5"])
