"""Faults of a run: a full disk, a damaged checkpoint, a lost worker.

Each run recovers to the weights of an undisturbed run, or reports in one line what to do.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from long_run import EPOCHS, SETTINGS, Undisturbed, epochs_of, records_of
from processes import descendants
from train_runs import attempts_of

from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.train import main as train

When = Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def arguments(small_file: Path, storage: Path, name: str, *more: str) -> list[str]:
    place = [f"storage={storage}", f"data.source={small_file}", f"name={name}"]
    return ["quick", "fit.monitor=loss", *SETTINGS, *place, *more]


def assert_ended_as(folder: Path, undisturbed: Undisturbed) -> None:
    undisturbed.assert_same_weights(folder / "bundle")
    assert [r["val"] for r in records_of(folder)] == [r["val"] for r in undisturbed.records]


def test_a_run_whose_disk_fills_worker_is_killed_and_checkpoint_is_damaged_ends_as_undisturbed(
    small_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: When,
    undisturbed: Undisturbed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    small_disk = disk(30)
    folder = small_disk / "full"
    fill_the_disk(small_file, small_disk, 2, fill, when, capfd, "fit.checkpoint_steps=20")
    # An error that a user has to fix is no failure, for which Ray would start the workers again.
    assert attempts_of("full/checkpoints") == [1]
    saved = len(epochs_of(folder))
    killed: list[int] = []
    damaged: list[Path] = []

    def kill_the_worker_and_damage_its_newest_checkpoint() -> None:
        killed.extend(descendants("ray::RayTrainWorker"))
        os.kill(killed[0], signal.SIGKILL)
        while descendants("ray::RayTrainWorker"):
            time.sleep(0.02)
        # Of those that are complete: what was copied when the disk filled is not in Ray's list.
        known = (folder / "checkpoints" / "checkpoint_manager_snapshot.json").read_text("utf-8")
        newest, *others = [
            c for c in checkpoints_under(folder / "checkpoints") if f'"{c.name}"' in known
        ]
        assert others
        with (newest / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        damaged.append(newest)

    killing = when(
        lambda: len(epochs_of(folder)) >= saved + 2,
        kill_the_worker_and_damage_its_newest_checkpoint,
    )
    again = ["--resume", f"storage={small_disk}", "name=full", "failure.max_failures=1"]
    assert train(again) == 0
    killing.join()
    assert len(killed) == 1
    assert attempts_of("full/checkpoints") == [1, 2]
    assert_ended_as(folder, undisturbed)
    (note,) = [line for line in capfd.readouterr().out.splitlines() if "is damaged" in line]
    assert note.startswith(f"{damaged[0]}: checkpoint is damaged")
    assert note.endswith("resuming from the one before it")


@pytest.mark.long
def test_a_disk_that_fills_before_the_first_checkpoint_leaves_a_run_that_can_be_resumed(
    small_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: When,
    undisturbed: Undisturbed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    small_disk = disk(30)
    fill_the_disk(small_file, small_disk, 0, fill, when, capfd)
    assert train(["--resume", f"storage={small_disk}", "name=full"]) == 0
    assert_ended_as(small_disk / "full", undisturbed)


def fill_the_disk(
    small_file: Path,
    small_disk: Path,
    epochs: int,
    fill: Callable[[Path, int], None],
    when: When,
    capfd: pytest.CaptureFixture[str],
    *settings: str,
) -> None:
    """A run called `full` that the disk ends after so many epochs; then there is space again."""
    # There is space at the start; then something else fills the disk but for a few lines.
    folder = small_disk / "full"
    filling = when(
        lambda: (folder / "config.yaml").exists() and len(epochs_of(folder)) >= epochs,
        lambda: fill(small_disk, 300),
    )
    more = ["failure.max_failures=0", *settings]
    assert train(arguments(small_file, small_disk, "full", *more)) == 2
    filling.join()
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "could not be saved" in error
    assert "free some space" in error
    assert "--resume" in error
    assert len(epochs_of(folder)) < EPOCHS
    assert epochs == 0 or any(checkpoints_under(folder / "checkpoints"))
    (small_disk / "filler").unlink()
