"""What may happen to a study, made to happen with real processes: counts equal what happened."""

import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import yaml
from processes import descendants

from mbti_ray.config import load_study
from mbti_ray.errors import RunError
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.study.records import TrialRecord, records_of
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study
from mbti_ray.tune import main as tune

When = Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def study_file(small_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    tree = {
        "preset": "quick",
        "data": {"source": str(small_file)},
        "fit": {"epochs": 3, "patience": None},
        "study": {"trials": 6, "startup_trials": 6, "scheduler": "none"},
        "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return path


def records(folder: Path) -> list[TrialRecord]:
    return records_of(
        optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'optuna.db'}")
    )


def states(folder: Path) -> Counter[str]:
    return Counter(r.state for r in records(folder))


def ended(folder: Path) -> int:
    """Trials that have ended, asked by one who only looks on."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'optuna.db'}?mode=ro", uri=True)) as database:
            states = "('COMPLETE', 'PRUNED', 'FAIL')"
            query = f"select count(*) from trials where state in {states}"
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        # Not there yet, or being written.
        return 0


def trial_processes() -> list[int]:
    return sorted(descendants("ray::ImplicitFunc"))


def assert_nothing_repeated(found: list[TrialRecord]) -> None:
    """No point was tried twice, but for those that were interrupted."""
    retried = {r.retry_of for r in found if r.retry_of is not None}
    rates = [r.params["optim.lr"] for r in found if r.number not in retried]
    assert len(rates) == len(set(rates))


@pytest.mark.long
def test_a_trial_whose_process_is_killed_for_good_is_a_failed_trial(
    when: When, study_file: Path, tmp_path: Path
) -> None:
    """As the kernel does when memory is out; without restarts, so that it stays dead."""
    folder = tmp_path / "hungry"
    killing = when(
        lambda: ended(folder) >= 1, lambda: os.kill(trial_processes()[0], signal.SIGKILL)
    )
    place = [f"storage={tmp_path}", "name=hungry", "failure.max_failures=0"]
    assert tune([str(study_file), *place]) == 0
    killing.join()
    assert states(folder) == {"COMPLETE": 5, "FAIL": 1}
    (reason,) = [r.reason for r in records(folder) if r.state == "FAIL"]
    assert reason == "the trial's process was lost: killed, or out of memory"
    # The one that failed is made up for, by another point.
    assert tune([str(study_file), *place, "--resume"]) == 0
    assert states(folder) == {"COMPLETE": 6, "FAIL": 1}
    assert_nothing_repeated(records(folder))


def test_a_study_of_which_no_trial_was_evaluated_ends_with_the_reason_of_the_first(
    study_file: Path, tmp_path: Path
) -> None:
    from mbti_ray.on_ray.cluster.resources import Resources
    from mbti_ray.on_ray.tune.tuner import finish_study

    config = load_study(str(study_file))
    folder = RunFolder(tmp_path / "failed")
    folder.begin(config, "fresh")
    study = open_study(folder.path, config, name="failed")
    for reason in ("the encoder is gone", "something else"):
        trial = ask_trial(study, config.search)
        assert trial is not None
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(
        RunError, match="no trial was evaluated; the first one: the encoder is gone"
    ):
        finish_study(config, [], study, folder, Resources(1, 0), at_once=2)


def test_a_trial_that_cannot_save_ends_the_study_and_is_tried_again_when_that_is_resumed(
    study_file: Path, tmp_path: Path
) -> None:
    from mbti_ray.on_ray.tune.optuna_searcher import StudySearcher

    config = load_study(str(study_file))
    study = open_study(tmp_path, config, name="full")
    searcher = StudySearcher(study, config, budget=6)
    reason = "the checkpoint of step 4 could not be saved (No space left on device)"
    with searcher.driver:
        params = [searcher.suggest(name) for name in "ab"]
        searcher.on_trial_complete("a", {"epoch": 0, "failed": reason, "storage_lost": True})
        assert searcher.suggest("c") == searcher.FINISHED
        # The other one runs to its end.
        scores = {"epoch": 1, "acc_mean": 0.5, "best": 0.5, "best_epoch": 1, "seconds": 1.0}
        searcher.on_trial_complete("b", {**scores, "finished": True})
    assert str(searcher.error) == f"full: {reason}"
    first, second = records_of(study)[:2]
    assert (first.state, first.reason, second.state) == ("FAIL", reason, "COMPLETE")
    again = ask_trial(study, config.search)
    assert again is not None
    assert again.params == params[0]


def test_every_change_of_a_trials_params_by_its_population_is_recorded(
    study_file: Path, tmp_path: Path
) -> None:
    from mbti_ray.on_ray.tune.optuna_searcher import StudySearcher

    config = load_study(str(study_file))
    study = open_study(tmp_path, config, name="changes")
    searcher = StudySearcher(study, config, budget=1)
    rates = [1e-3, 2e-3, 3e-3]
    with searcher.driver:
        params = searcher.suggest("a")
        for epoch, rate in enumerate([params["optim.lr"], *rates], 1):
            scores = {"acc_mean": 0.5, "best": 0.5, "best_epoch": epoch, "seconds": 1.0}
            searcher.on_trial_result("a", {"epoch": epoch, "config/optim.lr": rate, **scores})
    (record,) = records_of(study)
    assert record.schedule == [[n, {"optim.lr": rate}] for n, rate in enumerate(rates, 2)]
    assert record.last_params == {"optim.lr": rates[-1]}


@pytest.mark.long
def test_a_database_that_is_held_for_a_while_loses_nothing(
    when: When, study_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "held"

    def hold() -> None:
        other = sqlite3.connect(folder / "optuna.db", timeout=30, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(6)
        other.execute("ROLLBACK")
        other.close()

    holding = when(lambda: ended(folder) >= 1, hold)
    assert tune([str(study_file), f"storage={tmp_path}", "name=held"]) == 0
    holding.join()
    assert states(folder) == {"COMPLETE": 6}
    assert all([e[0] for e in r.evaluations] == [1, 2, 3] for r in records(folder))


@pytest.mark.long
def test_a_full_disk_is_said_in_a_line_and_the_study_goes_on_where_there_is_room(
    study_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: When,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # There is space when it starts; then another process takes all but that of a few checkpoints.
    small_disk = disk(60)
    filling = when((small_disk / "full" / "config.yaml").exists, lambda: fill(small_disk, 4500))
    assert tune([str(study_file), f"storage={small_disk}", "name=full"]) == 2
    filling.join()
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert "full" in message or "No space" in message
    before = records(small_disk / "full")
    shutil.copytree(small_disk / "full", tmp_path / "full")
    place = [str(study_file), f"storage={tmp_path}", "name=full"]
    assert tune([*place, "--resume", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    found = records(tmp_path / "full")
    assert states(tmp_path / "full")["COMPLETE"] == 6
    assert result["trials"] == dict(states(tmp_path / "full"))
    completed = [r for r in before if r.state == "COMPLETE"]
    assert [r for r in found if r.number in {k.number for k in completed}] == completed
    assert_nothing_repeated(found)


def test_ctrl_c_once_lets_trials_end_and_resume_of_a_larger_budget_survives_a_killed_process(
    when: When, study_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "asked"
    asking = when(lambda: ended(folder) >= 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    place = [str(study_file), f"storage={tmp_path}", "name=asked", "--json"]
    assert tune(place) == 130
    asking.join()
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["ended_early"] == "stopped by SIGINT"
    before = records(folder)
    assert {r.state for r in before} == {"COMPLETE"}
    assert len(before) < 6
    assert Path(result["bundle"], "bundle.json").is_file()

    killed: list[int] = []

    def kill_one() -> None:
        killed.append(trial_processes()[0])
        os.kill(killed[0], signal.SIGKILL)

    killing = when(lambda: ended(folder) > len(before), kill_one)
    assert tune([*place, "--resume", "study.trials=7"]) == 0
    killing.join()
    assert killed
    found = records(folder)
    assert found[: len(before)] == before
    # Tune restarts the trial from its checkpoint; where it cannot, because the process died between
    # two trials, the point is tried again from its start.
    lost = [r for r in found if r.state == "FAIL"]
    assert states(folder) == {"COMPLETE": 7} | ({"FAIL": len(lost)} if lost else {})
    assert {r.retry_of: r.params for r in found if r.retry_of is not None} == {
        r.number: r.params for r in lost
    }
    complete = [r for r in found if r.state == "COMPLETE"]
    assert all([e[0] for e in r.evaluations] == [1, 2, 3] for r in complete)
    assert_nothing_repeated(found)
