"""Faults of a run: a stop request, a damaged checkpoint, a full disk, a lost worker.

Each run recovers to the weights of an undisturbed run, or reports in one line what to do.
"""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.train import main as train

When = Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

Build = Callable[..., RunConfig]
# Enough of them that a run is not over before a signal or a file is seen.
EPOCHS = 20
SETTINGS = [f"fit.epochs={EPOCHS}", "fit.patience=null", "fit.batch_size=8", "scaling.cpus=1"]


@pytest.fixture(scope="module")
def expected(quick: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of an undisturbed run."""
    torch.set_num_threads(1)
    config = quick(*SETTINGS)
    data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
    return run(config, data, Worker()).model.state_dict()


def arguments(small_file: Path, storage: Path, name: str, *more: str) -> list[str]:
    place = [f"storage={storage}", f"data.source={small_file}", f"name={name}"]
    return ["quick", "fit.monitor=loss", *SETTINGS, *place, *more]


def epochs_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]


def assert_ended_as(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    got = load_file(folder / "bundle" / "model.safetensors")
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in got)
    assert epochs_of(folder) == list(range(1, EPOCHS + 1))


def test_sigterm_saves_and_stops_and_the_resumed_run_is_the_uninterrupted_one(
    when: When,
    small_file: Path,
    tmp_path: Path,
    expected: dict[str, torch.Tensor],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "asked"
    asking = when(lambda: len(epochs_of(folder)) >= 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(arguments(small_file, tmp_path, "asked")) == 143
    asking.join()
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "stopped as requested after step" in error
    assert error.endswith("its checkpoint is saved, --resume continues from it")
    assert len(epochs_of(folder)) < EPOCHS
    assert not (folder / "bundle").exists()
    assert train(["--resume", f"storage={tmp_path}", "name=asked"]) == 0
    assert_ended_as(folder, expected)


def test_a_damaged_newest_checkpoint_is_skipped_with_a_note(
    when: When,
    small_file: Path,
    tmp_path: Path,
    expected: dict[str, torch.Tensor],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "damaged"
    asking = when(lambda: len(epochs_of(folder)) >= 3, (folder / "stop").touch)
    assert train(arguments(small_file, tmp_path, "damaged")) == 143
    asking.join()
    newest, before, *_ = checkpoints_under(folder / "checkpoints")
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert train(["--resume", f"storage={tmp_path}", "name=damaged"]) == 0
    assert_ended_as(folder, expected)
    (note,) = [line for line in capfd.readouterr().out.splitlines() if "is damaged" in line]
    assert note.startswith(f"{newest}: checkpoint is damaged")
    assert note.endswith("resuming from the one before it")
    assert before.name != newest.name


def test_losing_one_of_two_elastic_workers_costs_the_steps_since_the_checkpoint(
    when: When, small_file: Path, tmp_path: Path
) -> None:
    import ray
    from ray.util.state import list_actors

    folder = tmp_path / "elastic"

    def kill_one() -> None:
        address = ray.get_runtime_context().gcs_address
        actors = list_actors(address, filters=[("state", "=", "ALIVE")])
        os.kill(next(a.pid for a in actors if a.class_name == "RayTrainWorker"), signal.SIGKILL)

    killing = when(lambda: len(epochs_of(folder)) >= 2, kill_one)
    elastic = arguments(small_file, tmp_path, "elastic", "scaling.workers=[1,2]")
    assert train(elastic) == 0
    killing.join()
    assert epochs_of(folder) == list(range(1, EPOCHS + 1))
    assert (folder / "bundle" / "bundle.json").exists()


@pytest.mark.parametrize("epochs", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_disk_that_fills_ends_the_run_with_what_to_do_and_the_resumed_run_is_complete(
    epochs: int,
    small_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: Callable[..., threading.Thread],
    expected: dict[str, torch.Tensor],
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
    assert_ended_as(folder, expected)
