"""A machine is lost with all that was on it, and the bucket is enough; or the bucket is away."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from s3_server import Server, s3_server

from mbti_ray.config import load_study
from mbti_ray.runs.run_folder import open_run
from mbti_ray.storage.remote import parse_location
from mbti_ray.study.records import TrialRecord, records_of
from mbti_ray.study.store import open_study

psutil = pytest.importorskip("psutil")

pytestmark = pytest.mark.long

# Longer than the library of the store tries by itself.
AWAY_S = 25
SETTINGS = ["fit.epochs=10", "fit.patience=null", "fit.checkpoint_steps=20", "scaling.cpus=1"]


@pytest.fixture
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What may be lost."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine" / "cache"))
    return tmp_path / "machine"


def command(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mbti_ray.{verb}", *arguments]


def lose(driver: "subprocess.Popen[bytes]", machine: Path) -> None:
    """All processes of the command end at once, and what they had written here is gone."""
    assert driver.poll() is None
    # The driver first: while it lives, Ray starts others for those that end.
    lost = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    for process in lost:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    driver.wait()
    psutil.wait_procs(lost, timeout=30)
    shutil.rmtree(machine)


def epochs_of(url: str) -> list[int]:
    metrics = parse_location(f"{url}/metrics.jsonl")
    if not metrics.exists():
        return []
    return [json.loads(line)["epoch"] for line in metrics.read_text("utf-8").splitlines()]


def records(url: str) -> list[TrialRecord]:
    with open_run(url) as folder:
        if not (folder.path / "optuna.db").exists():
            return []
        config = load_study(str(folder.config))
        return records_of(open_study(folder.path, config, name=folder.path.name))


def study_file(folder: Path) -> Path:
    tree = {
        "preset": "quick",
        "fit": {"epochs": 4, "patience": None},
        "study": {"trials": 5, "startup_trials": 6, "scheduler": "none"},
        "search": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    return folder / "study.yaml"


def wait_for_trials(url: str, count: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if sum(r.state == "COMPLETE" for r in records(url)) >= count:
            break
        time.sleep(0.2)


def test_a_run_in_a_bucket_whose_machine_is_lost_ends_as_the_uninterrupted_one(
    server: Server, machine: Path, tmp_path: Path
) -> None:
    url, place = f"{server.url}/runs/lost", f"storage={server.url}/runs"
    driver = subprocess.Popen(command("train", "quick", *SETTINGS, place, "name=lost"))
    deadline = time.monotonic() + 240
    while len(epochs_of(url)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    lose(driver, machine)
    assert "runs/lost/bundle/bundle.json" not in server.keys("runs")
    subprocess.run(command("train", "--resume", place, "name=lost"), check=True, timeout=300)
    assert epochs_of(url) == list(range(1, 11))
    local = command("train", "quick", *SETTINGS, f"storage={tmp_path}", "name=whole")
    subprocess.run(local, check=True, timeout=300)
    weights = parse_location(f"{url}/bundle/model.safetensors")
    weights.download(tmp_path / "weights")  # type: ignore[union-attr]
    whole = tmp_path / "whole" / "bundle" / "model.safetensors"
    assert (tmp_path / "weights").read_bytes() == whole.read_bytes()


def test_a_study_in_a_bucket_whose_machine_is_lost_tries_again_what_ran(
    server: Server, machine: Path, tmp_path: Path
) -> None:
    url, place = f"{server.url}/studies/lost", [f"storage={server.url}/studies", "name=lost"]
    driver = subprocess.Popen(command("tune", str(study_file(tmp_path)), *place))
    wait_for_trials(url, 2)
    lose(driver, machine)
    before = records(url)
    subprocess.run(command("tune", *place, "--resume"), check=True, timeout=300)
    after = records(url)
    complete = [r for r in before if r.state == "COMPLETE"]
    assert len(complete) >= 2
    assert [r for r in after if r.number in {c.number for c in complete}] == complete
    lost = [r for r in after if r.state == "FAIL"]
    assert lost
    assert Counter(r.state for r in after) == {"COMPLETE": 5, "FAIL": len(lost)}
    assert {r.retry_of for r in after if r.retry_of is not None} == {r.number for r in lost}
    assert "studies/lost/best/bundle/bundle.json" in server.keys("studies")


def test_a_run_waits_in_its_place_while_its_bucket_is_away(server: Server, machine: Path) -> None:
    url, place = f"{server.url}/runs/waits", [f"storage={server.url}/runs", "name=waits"]
    driver = subprocess.Popen(command("train", "quick", *SETTINGS, *place))
    deadline = time.monotonic() + 240
    while len(epochs_of(url)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    with server.away():
        time.sleep(AWAY_S)
    assert driver.wait(300) == 0
    assert epochs_of(url) == list(range(1, 11))
    keys = server.keys("runs/waits/")
    assert "runs/waits/bundle/bundle.json" in keys
    # No worker was started again, which would be a note.
    assert not keys & {"runs/waits/notes.txt", "runs/waits/failure.txt"}


def test_no_trial_of_a_study_fails_because_its_bucket_is_away_for_a_while(
    server: Server, machine: Path, tmp_path: Path
) -> None:
    url = f"{server.url}/studies/waits"
    place = [f"storage={server.url}/studies", "name=waits"]
    driver = subprocess.Popen(command("tune", str(study_file(tmp_path)), *place))
    wait_for_trials(url, 1)
    with server.away():
        time.sleep(AWAY_S)
    assert driver.wait(300) == 0
    assert Counter(r.state for r in records(url)) == {"COMPLETE": 5}
    assert "studies/waits/best/bundle/bundle.json" in server.keys("studies")
