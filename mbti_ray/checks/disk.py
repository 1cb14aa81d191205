"""Free space on the disks that a run writes to: that of Ray's folder and of the storage folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mbti_ray.checks.verdict import Verdict, merge_verdicts
from mbti_ray.config import RunConfig, StudyConfig

_CHECK = "disk"
_GIB = 1 << 30
# Above this share Ray spills no more objects, and tasks that need one block.
_RAY_STOPS_AT = 0.95
_LOW_BYTES = 5 * _GIB
# A run keeps two checkpoints, and writes the next one before it deletes the oldest.
_KEPT_CHECKPOINTS = 2
_RAY = "Ray's folder"
_STORAGE = "storage"


@dataclass(frozen=True)
class Disk:
    """The disk that a folder is on."""

    path: str
    free_bytes: int
    total_bytes: int

    @property
    def used_share(self) -> float:
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True)
class DiskNeed:
    """An estimate of what a run or study writes to the storage folder."""

    min_bytes: int
    max_bytes: int


def estimate_disk_need(config: RunConfig, weights_bytes: int) -> DiskNeed:
    """The size of the checkpoints and bundles for an encoder with weights of that size.

    A checkpoint contains the weights, the best weights, and two moments of each trained weight.
    """
    copies = 2 if config.model.trainable == "heads" else 4
    checkpoint, bundle = copies * weights_bytes, weights_bytes
    trials = config.study.trials or 1 if isinstance(config, StudyConfig) else 1
    kept = trials + 1 if isinstance(config, StudyConfig) else _KEPT_CHECKPOINTS + 1
    return DiskNeed(checkpoint + bundle, kept * checkpoint + bundle)


def measure_disk(folder: Path) -> Disk:
    """The disk that a folder is on, or would be on."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    usage = shutil.disk_usage(existing)
    return Disk(str(folder), usage.free, usage.total)


def judge_ray_disk(by_machine: Mapping[str, Disk]) -> list[Verdict]:
    """The disk to which Ray writes logs and spills objects."""
    return merge_verdicts({machine: _ray_disk(disk) for machine, disk in by_machine.items()})


def judge_storage_disk(disk: Disk, need: "DiskNeed") -> Verdict:
    """The disk of the storage folder."""
    message = f"{_STORAGE} {disk.path} has {_format_bytes(disk.free_bytes)} free"
    remedy = "free space, or set storage=... to a larger disk"
    if disk.free_bytes < need.min_bytes:
        message += f", but one checkpoint and the bundle need {_format_bytes(need.min_bytes)}"
        return Verdict(_CHECK, "wrong", message, remedy)
    if disk.free_bytes < need.max_bytes:
        message += f", and all that is stored may need {_format_bytes(need.max_bytes)}"
        return Verdict(_CHECK, "warning", message, remedy)
    if need.max_bytes:
        message += f"; needs about {_format_bytes(need.max_bytes)}"
    return Verdict(_CHECK, "ok", message)


def _ray_disk(disk: Disk) -> Verdict:
    message = f"{_RAY} {disk.path} has {_format_bytes(disk.free_bytes)} free"
    remedy = "free space there, or start Ray with --temp-dir on a larger disk"
    if disk.used_share >= _RAY_STOPS_AT:
        message += f": {disk.used_share:.0%} is used, and at {_RAY_STOPS_AT:.0%} Ray stores no more"
        return Verdict(_CHECK, "wrong", message, remedy)
    if disk.free_bytes < _LOW_BYTES:
        return Verdict(_CHECK, "warning", message, remedy)
    return Verdict(_CHECK, "ok", f"{_RAY} {disk.path} has enough space")


def _format_bytes(count: int) -> str:
    """`3.2 GiB`, `45 MiB`."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / (1 << 20):.0f} MiB"
