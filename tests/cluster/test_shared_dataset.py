"""How a dataset comes to workers: as files that they map, copied where they are missing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import has_dataset, prepare_dataset
from mbti_ray.on_ray import shared_dataset
from mbti_ray.on_ray.shared_dataset import SharedDataset

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_worker_maps_the_files_of_the_cache(
    quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    import ray

    @ray.remote
    def load(shared: SharedDataset) -> tuple[int, str]:
        data = shared.load()
        return len(data.splits["train"]), Path("/proc/self/maps").read_text("utf-8")

    data = prepare_dataset(quick(), tmp_path)
    windows, maps = ray.get(load.remote(SharedDataset.of(data)))
    assert windows == len(data.splits["train"])
    assert str(data.folder / "ids") in maps


def test_a_machine_without_the_cache_gets_a_copy_of_its_own_once(
    quick: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepare_dataset(quick(), tmp_path / "cache")
    shared = SharedDataset.of(data)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(shared_dataset, "_PART_BYTES", 10_000)
    monkeypatch.setattr(
        shared_dataset,
        "has_dataset",
        lambda folder: folder != shared.folder and has_dataset(folder),
    )
    copy = shared.load()
    assert copy.folder == tmp_path / "own" / "mbti_ray" / "datasets" / data.key
    files = contents(data.folder)
    assert contents(copy.folder) == files
    assert max(map(len, files.values())) > 10_000
    assert copy.info == data.info
    monkeypatch.setattr(SharedDataset, "_copy_to", None)
    assert shared.load().folder == copy.folder
