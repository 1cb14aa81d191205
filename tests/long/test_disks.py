"""What a full disk leaves behind does not keep a run from being resumed."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

RUN = [sys.executable, "-m", "mbti_ray.train", "name=full"]


@pytest.mark.parametrize("content", ["", '{"torn'])
def test_a_run_whose_snapshot_a_full_disk_has_emptied_resumes(tmp_path: Path, content: str) -> None:
    storage = f"storage={tmp_path}"
    subprocess.run([*RUN, storage], check=True)
    snapshot = tmp_path / "full" / "checkpoints" / "checkpoint_manager_snapshot.json"
    assert snapshot.stat().st_size
    snapshot.write_text(content)
    subprocess.run([*RUN, "--resume", storage], check=True)
