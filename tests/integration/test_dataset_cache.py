"""The cache of tokenized datasets: shared by commands and users, and swept."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset

pytestmark = pytest.mark.integration

# Waits until all are ready, as commands that start at the same time.
PREPARE = """
import os, sys
from pathlib import Path
from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
os.umask(0o027)
print("ready", flush=True)
sys.stdin.readline()
data = prepare_dataset(load_run("quick", [f"data.source={sys.argv[2]}"]), Path(sys.argv[1]))
print(data.key, {name: windows.row_count for name, windows in data.splits.items()})
"""


def test_commands_that_prepare_the_same_data_at_once_share_one_folder_with_modes_of_the_umask(
    small_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path), str(small_file)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (answer,) = answers
    (folder,) = tmp_path.iterdir()
    assert answer.startswith(folder.name)
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o640}
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_dataset_that_nobody_has_used_for_a_month_is_deleted_by_the_next_new_one(
    quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = quick()
    used = tmp_path / prepare_dataset(config, tmp_path).key
    unused = tmp_path / "0123456789abcdef"
    unused.mkdir()
    (unused / "train.arrow").write_bytes(b"x")
    for folder in (used, unused):
        long_ago = time.time() - 31 * 86400
        os.utime(folder, (long_ago, long_ago))
    prepare_dataset(config, tmp_path)
    new = tmp_path / prepare_dataset(quick("seed=5"), tmp_path).key
    assert set(tmp_path.iterdir()) == {used, new}
