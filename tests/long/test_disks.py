"""What a full disk leaves behind does not keep a run from being resumed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

SMALL = ["fit.epochs=2", "model.max_tokens=32", "data.max_windows=2", "scoring.resamples=0"]


def train(*arguments: str) -> None:
    command = [sys.executable, "-m", "mbti_ray.train", *arguments, "scaling.cpus=1", "name=full"]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def trained(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage with a run."""
    storage = tmp_path_factory.mktemp("storage")
    train("quick", *SMALL, f"data.source={small_file}", f"storage={storage}")
    return storage


@pytest.mark.parametrize("content", ["", '{"torn'])
def test_a_run_whose_snapshot_a_full_disk_has_emptied_resumes(
    trained: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(trained / "full", tmp_path / "full")
    snapshot = tmp_path / "full" / "checkpoints" / "checkpoint_manager_snapshot.json"
    assert snapshot.stat().st_size
    snapshot.write_text(content)
    train("--resume", f"storage={tmp_path}")
    assert (tmp_path / "full" / "bundle" / "bundle.json").exists()
