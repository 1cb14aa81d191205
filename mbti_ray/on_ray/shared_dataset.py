"""A prepared dataset, as workers and trials get it: they map its files, wherever they run.

Owns how the files come to a machine that does not see the cache folder: once, into that machine's
own cache. Nothing of a dataset stays in the object store. Must not know how it is prepared.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mbti_ray.data.dataset import Dataset, has_dataset, read_dataset
from mbti_ray.data.rows import DatasetInfo
from mbti_ray.storage.atomic import atomic_folder
from mbti_ray.storage.local_cache import delete_unused, touch, user_cache_folder

_PART_BYTES = 2**26


@dataclass(frozen=True)
class SharedDataset:
    """Where a dataset is.

    Attributes:
        folder: Its cache folder.
        node: The id of a Ray node that sees this folder.
        info: `Dataset.info`, with the source as this command names it.
    """

    folder: Path
    node: str
    info: DatasetInfo

    @classmethod
    def of(cls, data: Dataset) -> "SharedDataset":
        """Called on a node that sees the cache folder."""
        return cls(data.folder.resolve(), ray.get_runtime_context().get_node_id(), data.info)

    def load(self) -> Dataset:
        """The dataset, with its files mapped on this machine."""
        folder = self.folder
        if not has_dataset(folder):
            folder = user_cache_folder() / "datasets" / self.folder.name
            if not has_dataset(folder):
                self._copy_to(folder)
            touch(folder)
        return replace(_read_dataset(folder), info=self.info)

    def _copy_to(self, folder: Path) -> None:
        delete_unused(folder.parent)
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        task = ray.remote(num_cpus=0, scheduling_strategy=there)
        # Another worker of this machine may be copying it, too.
        with atomic_folder(folder, keep_existing=True) as temporary:
            for name, size in ray.get(task(_list_files).remote(self.folder)):
                path = temporary / name
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    for start in range(0, size, _PART_BYTES):
                        part = task(_read_part).remote(self.folder / name, start, _PART_BYTES)
                        file.write(ray.get(part))


# An actor trains one trial after the other on the same dataset, or on its folds.
_read_dataset = lru_cache(maxsize=64)(read_dataset)


def _list_files(folder: Path) -> list[tuple[str, int]]:
    # A hidden one is being written, by who keeps more with the dataset.
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return [(str(path.relative_to(folder)), path.stat().st_size) for path in files]


def _read_part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
