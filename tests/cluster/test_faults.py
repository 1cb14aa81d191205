"""A run whose disk fills reports in one line what to do, and resumes to what it would have been."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from long_run import EPOCHS, SETTINGS, Undisturbed, epochs_of, records_of
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


def test_a_run_whose_disk_fills_ends_in_one_line_and_resumes_to_the_weights_of_an_undisturbed_one(
    small_file: Path,
    disk: Callable[[int], Path],
    fill: Callable[[Path, int], None],
    when: When,
    undisturbed: Undisturbed,
    capfd: pytest.CaptureFixture[str],
) -> None:
    small_disk = disk(30)
    fill_the_disk(small_file, small_disk, 2, fill, when, capfd, "fit.checkpoint_steps=20")
    # An error that a user has to fix is no failure, for which Ray would start the workers again.
    assert attempts_of("full/checkpoints") == [1]
    assert train(["--resume", f"storage={small_disk}", "name=full"]) == 0
    assert_ended_as(small_disk / "full", undisturbed)


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
