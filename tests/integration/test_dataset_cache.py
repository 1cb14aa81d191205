"""The cache of tokenized datasets: shared by commands and users, and swept."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from mbti_ray.config import RunConfig, load_run
from mbti_ray.data.dataset import prepare_dataset

pytestmark = pytest.mark.integration


def prepare(rank: int, cache: str, source: str) -> tuple[str, int]:
    """As commands that start at the same time do it."""
    os.umask(0o027)
    torch.distributed.barrier()
    data = prepare_dataset(load_run("quick", [f"data.source={source}"]), Path(cache))
    return data.key, data.splits["train"].row_count


def test_commands_that_prepare_the_same_data_at_once_share_one_folder_with_modes_of_the_umask(
    small_file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    one, other = run_ranks(prepare, tmp_path / "ranks", str(cache), str(small_file))
    assert one == other
    (folder,) = cache.iterdir()
    assert folder.name == one[0]
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
