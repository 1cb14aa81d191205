"""Faults of a run: a stop request, a damaged checkpoint, a full disk, a lost worker.

Each run recovers to the weights of an undisturbed run, or reports in one line what to do.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from long_run import EPOCHS, SETTINGS, Undisturbed, epochs_of, records_of
from processes import descendants

from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.train import main as train

When = Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def arguments(small_file: Path, storage: Path, name: str, *more: str) -> list[str]:
    place = [f"storage={storage}", f"data.source={small_file}", f"name={name}"]
    return ["quick", "fit.monitor=loss", *SETTINGS, *place, *more]


def attempts_of(name: str) -> list[int]:
    """How often the workers of each run of this name were started."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    state = get_state_actor()
    attempts = ray.get(state.get_train_run_attempts.remote())
    runs = ray.get(state.get_train_runs.remote())
    return [len(attempts[number]) for number, run in runs.items() if run.name == name]


def assert_ended_as(folder: Path, undisturbed: Undisturbed) -> None:
    undisturbed.assert_same_weights(folder / "bundle")
    assert [r["val"] for r in records_of(folder)] == [r["val"] for r in undisturbed.records]


def test_a_run_that_is_stopped_and_loses_a_checkpoint_and_its_worker_ends_as_undisturbed(
    when: When,
    small_file: Path,
    tmp_path: Path,
    undisturbed: Undisturbed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "asked"
    asking = when(lambda: len(epochs_of(folder)) >= 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(arguments(small_file, tmp_path, "asked", "fit.checkpoint_steps=20")) == 143
    asking.join()
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "stopped as requested after step" in error
    assert error.endswith("its checkpoint is saved, --resume continues from it")
    stopped_in = len(epochs_of(folder))
    assert stopped_in < EPOCHS - 2
    assert not (folder / "bundle").exists()
    # A stop is no failure, for which Ray would start the workers again.
    assert attempts_of("asked/checkpoints") == [1]

    newest, before, *_ = checkpoints_under(folder / "checkpoints")
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    killed: list[int] = []

    def kill_the_worker() -> None:
        killed.extend(descendants("ray::RayTrainWorker"))
        os.kill(killed[0], signal.SIGKILL)

    killing = when(lambda: len(epochs_of(folder)) >= stopped_in + 2, kill_the_worker)
    assert train(["--resume", f"storage={tmp_path}", "name=asked"]) == 0
    killing.join()
    assert len(killed) == 1
    assert attempts_of("asked/checkpoints") == [1, 2]
    assert_ended_as(folder, undisturbed)
    (note,) = [line for line in capfd.readouterr().out.splitlines() if "is damaged" in line]
    assert note.startswith(f"{newest}: checkpoint is damaged")
    assert note.endswith("resuming from the one before it")
    assert before.name != newest.name


@pytest.mark.parametrize("epochs", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_disk_that_fills_ends_the_run_with_what_to_do_and_the_resumed_run_is_complete(
    epochs: int,
    small_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: Callable[..., threading.Thread],
    undisturbed: Undisturbed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # There is space at the start; then something else fills the disk but for a few lines.
    small_disk = disk(30)
    folder = small_disk / "full"
    filling = when(
        lambda: (folder / "config.yaml").exists() and len(epochs_of(folder)) >= epochs,
        lambda: fill(small_disk, 300),
    )
    assert train(arguments(small_file, small_disk, "full", "failure.max_failures=0")) == 2
    filling.join()
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "could not be saved" in error
    assert "free some space" in error
    assert "--resume" in error
    assert len(epochs_of(folder)) < EPOCHS
    assert epochs == 0 or any(checkpoints_under(folder / "checkpoints"))
    (small_disk / "filler").unlink()
    assert train(["--resume", f"storage={small_disk}", "name=full"]) == 0
    assert_ended_as(folder, undisturbed)
