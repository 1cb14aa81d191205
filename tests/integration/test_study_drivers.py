"""Several commands run trials of one study in one database, each a real process."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from mbti_ray.config import StudyConfig, load_study
from mbti_ray.study.drivers import GRACE_S, Driver, fail_dead_trials
from mbti_ray.study.records import records_of
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study

pytestmark = pytest.mark.integration

# Runs one trial: reports its number, and completes it when it reads a line.
ONE_TRIAL = """
import sys
from pathlib import Path
from mbti_ray.config import load_study
from mbti_ray.study.drivers import Driver
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import open_study
config = load_study(sys.argv[1])
study = open_study(Path(sys.argv[2]), config, name="hunt")
with Driver(study) as driver:
    trial = ask_trial(study, config.search)
    driver.claim(trial)
    print(trial.number, flush=True)
    sys.stdin.readline()
    study.tell(trial, 0.5)
"""
# Suggests and completes trials as Tune would, until the study has enough.
ALL_TRIALS = """
import sys, time
from pathlib import Path
from mbti_ray.config import load_study
from mbti_ray.on_ray.tune.optuna_searcher import StudySearcher
from mbti_ray.study.store import open_study
config = load_study(sys.argv[1])
study = open_study(Path(sys.argv[2]), config, name="hunt")
print("ready", flush=True)
sys.stdin.readline()
searcher = StudySearcher(study, config, home=sys.argv[2])
report = {"epoch": 1, "seconds": 1.0, "acc_mean": 0.5, "best": 0.5, "best_epoch": 1}
report["finished"] = True
with searcher.driver:
    for count in range(100):
        if searcher.suggest(str(count)) == searcher.FINISHED:
            break
        time.sleep(0.2)
        searcher.on_trial_complete(str(count), report)
assert searcher.error is None, searcher.error
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    tree = {
        "preset": "quick",
        "study": {"trials": 8, "storage": f"sqlite:///{tmp_path / 'shared.db'}"},
        "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    file.write_text(yaml.safe_dump(tree), "utf-8")
    return file


@pytest.fixture
def config(study_file: Path) -> StudyConfig:
    return load_study(str(study_file))


def start(script: str, study_file: Path, folder: Path) -> "subprocess.Popen[str]":
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", script, str(study_file), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_opening_a_study_leaves_the_trials_of_a_living_driver_alone(
    study_file: Path, config: StudyConfig, tmp_path: Path
) -> None:
    other = start(ONE_TRIAL, study_file, tmp_path / "other")
    assert read_line(other) == "0"
    for _ in range(2):
        study = open_study(tmp_path, config, name="hunt")
        assert [r.state for r in records_of(study)] == ["RUNNING"]
    mine = ask_trial(study, config.search)
    assert mine is not None
    assert mine.number == 1
    other.communicate("\n", timeout=60)
    assert other.returncode == 0
    assert [r.state for r in records_of(study)] == ["COMPLETE", "RUNNING"]


def test_the_trial_of_a_killed_driver_fails_at_once_and_its_params_are_tried_again(
    study_file: Path, config: StudyConfig, tmp_path: Path
) -> None:
    other = start(ONE_TRIAL, study_file, tmp_path / "other")
    assert read_line(other) == "0"
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    study = open_study(tmp_path, config, name="hunt")
    again = ask_trial(study, config.search)
    assert again is not None
    first, second = records_of(study)
    assert (first.state, second.state) == ("FAIL", "RUNNING")
    assert second.retry_of == 0
    assert again.params == first.params


def test_a_driver_of_another_machine_is_dead_after_a_minute_without_a_heartbeat(
    config: StudyConfig, tmp_path: Path
) -> None:
    study = open_study(tmp_path, config, name="hunt")
    trial = ask_trial(study, config.search)
    assert trial is not None
    with Driver(study) as driver:
        driver.claim(trial)
    trial.set_user_attr("driver", trial.user_attrs["driver"] | {"host": "elsewhere"})
    fail_dead_trials(study, is_exclusive=False)
    assert [r.state for r in records_of(study)] == ["RUNNING"]
    with closing(sqlite3.connect(tmp_path / "shared.db")) as database, database:
        moved = f"datetime(heartbeat, '-{GRACE_S + 1} seconds')"
        database.execute(f"update trial_heartbeats set heartbeat = {moved}")
    fail_dead_trials(study, is_exclusive=False)
    assert [r.state for r in records_of(study)] == ["FAIL"]
    retried = ask_trial(study, config.search)
    assert retried is not None
    assert retried.params == trial.params


def test_two_drivers_share_the_trials_of_a_study(
    study_file: Path, config: StudyConfig, tmp_path: Path
) -> None:
    drivers = [start(ALL_TRIALS, study_file, tmp_path / name) for name in ("one", "two")]
    assert [read_line(driver) for driver in drivers] == ["ready", "ready"]
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("\n")
        driver.stdin.flush()
    for driver in drivers:
        driver.communicate(timeout=120)
        assert driver.returncode == 0
    found = records_of(open_study(tmp_path, config, name="hunt"))
    assert {r.state for r in found} == {"COMPLETE"}
    # Both may ask for the first or the last one at the same moment.
    assert len(found) in (8, 9)
    assert len({r.params["optim.lr"] for r in found}) >= len(found) - 1
    homes = Counter(r.home for r in found)
    assert set(homes) == {str(tmp_path / "one"), str(tmp_path / "two")}
