"""A study command is killed or interrupted: complete trials stay, running ones run again."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import yaml

from mbti_ray.study.records import TrialRecord, records_of

pytestmark = pytest.mark.long

TREE = {
    "preset": "quick",
    "fit": {"epochs": 4, "patience": None},
    "study": {"trials": 6, "startup_trials": 6, "scheduler": "none"},
    "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
}


def records(folder: Path) -> list[TrialRecord]:
    return records_of(
        optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'optuna.db'}")
    )


def complete_count(folder: Path) -> int:
    """Asked by one who only looks on."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'optuna.db'}?mode=ro", uri=True)) as database:
            query = "select count(*) from trials where state = 'COMPLETE'"
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        # Not there yet, or being written.
        return 0


def wait_for_ended(driver: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if complete_count(folder) >= count:
            return
        assert driver.poll() is None
        time.sleep(0.2)
    raise AssertionError("the study did not get that far")


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_study_goes_on_after_its_command_was(how: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TREE), "utf-8")
    command = [sys.executable, "-m", "mbti_ray.tune", str(file), f"storage={tmp_path}", "name=s"]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "s"
    wait_for_ended(driver, folder, 2)
    if how == "killed":
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        # What it started may hold the pipe open a little longer.
        assert driver.stderr is not None
        driver.stderr.close()
    else:
        os.kill(driver.pid, signal.SIGINT)
        time.sleep(0.5)
        os.kill(driver.pid, signal.SIGINT)
        _, output = driver.communicate(timeout=120)
        assert driver.returncode == 130
        assert "interrupted; --resume continues with the open trials" in output
    # Ray ends the workers of a driver that has died; two Rays at once would confuse each other.
    time.sleep(15)
    before = records(folder)
    subprocess.run([*command, "--resume"], check=True, timeout=300)
    after = records(folder)
    complete = [r for r in before if r.state == "COMPLETE"]
    assert len(complete) >= 2
    assert [r for r in after if r.number in {c.number for c in complete}] == complete
    lost = [r for r in before if r.state != "COMPLETE"]
    assert lost
    states = Counter(r.state for r in after)
    assert states == {"COMPLETE": 6, "FAIL": len(lost)}
    # Each that was lost was tried again, once, at its own point.
    retries = {r.retry_of: r.params for r in after if r.retry_of is not None}
    assert retries == {r.number: r.params for r in lost}
    assert (folder / "best" / "bundle" / "bundle.json").is_file()
    # A seventh is not tried.
    subprocess.run([*command, "--resume"], check=True, timeout=300)
    assert records(folder) == after
