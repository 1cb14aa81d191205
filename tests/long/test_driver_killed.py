"""The command itself is killed: nothing that it had learned is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

SETTINGS = ["fit.epochs=10", "fit.patience=null", "fit.checkpoint_steps=20", "scaling.cpus=1"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mbti_ray.train", *arguments]


def epochs_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]


def test_a_run_resumed_after_kill_9_of_its_driver_is_the_uninterrupted_run(tmp_path: Path) -> None:
    place = f"storage={tmp_path}"
    driver = subprocess.Popen(command("quick", *SETTINGS, place, "name=killed"))
    deadline = time.monotonic() + 180
    while len(epochs_of(tmp_path / "killed")) < 3 and time.monotonic() < deadline:
        assert driver.poll() is None
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    # Ray ends the workers of a driver that is gone; two Rays at once would confuse each other.
    time.sleep(15)
    assert not (tmp_path / "killed" / "bundle").exists()
    subprocess.run(command("--resume", place, "name=killed"), check=True, timeout=300)
    subprocess.run(command("quick", *SETTINGS, place, "name=whole"), check=True, timeout=300)
    assert epochs_of(tmp_path / "killed") == list(range(1, 11))
    weights = [
        (tmp_path / name / "bundle" / "model.safetensors").read_bytes()
        for name in ("killed", "whole")
    ]
    assert weights[0] == weights[1]
