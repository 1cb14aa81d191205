"""Free space on the disks that a run writes to: that of Ray's folder and of the storage folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from mbti_ray.checks.verdict import Verdict
from mbti_ray.config import RunConfig, StudyConfig

_CHECK = "disk"
# Above this share Ray spills no more objects, and tasks that need one block.
_RAY_STOPS_AT = 0.95
_LOW_BYTES = 5 << 30
# A run keeps two checkpoints, and writes the next one before it deletes the oldest.
_CHECKPOINTS = 3


@dataclass(frozen=True)
class Disk:
    """The disk that a folder is on."""

    path: str
    free_bytes: int
    total_bytes: int


def estimate_disk_need(config: RunConfig, weights_bytes: int) -> tuple[int, int]:
    """The least and the most bytes that a run or study writes for an encoder of that size.

    A checkpoint contains the weights, the best weights, and two moments of each weight; of a frozen
    encoder nothing.
    """
    checkpoint = 0 if config.model.trainable == "heads" else 4 * weights_bytes
    kept = _CHECKPOINTS
    if isinstance(config, StudyConfig):
        kept = (config.study.trials or 1) + 1
    return checkpoint + weights_bytes, kept * checkpoint + weights_bytes


def measure_disk(folder: Path) -> Disk:
    """The disk that a folder is on, or would be on."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    usage = shutil.disk_usage(existing)
    return Disk(str(folder), usage.free, usage.total)


def judge_ray_disk(disk: Disk) -> Verdict:
    """The disk to which Ray writes logs and spills objects."""
    message = f"Ray's folder {disk.path} has {decimal(disk.free_bytes)} free"
    remedy = "free space there, or start Ray with --temp-dir on a larger disk"
    used = 1 - disk.free_bytes / disk.total_bytes
    if used >= _RAY_STOPS_AT:
        message += f": {used:.0%} is used, and at {_RAY_STOPS_AT:.0%} Ray stores no more"
        return Verdict(_CHECK, "wrong", message, remedy)
    if disk.free_bytes < _LOW_BYTES:
        return Verdict(_CHECK, "warning", message, remedy)
    return Verdict(_CHECK, "ok", f"Ray's folder {disk.path} has enough space")


def judge_storage_disk(disk: Disk, need: tuple[int, int]) -> Verdict:
    """The disk of the storage folder; see `estimate_disk_need`."""
    least, most = need
    message = f"storage {disk.path} has {decimal(disk.free_bytes)} free"
    remedy = "free space, or set storage=... to a larger disk"
    if disk.free_bytes < least:
        message += f", but one checkpoint and the bundle need {decimal(least)}"
        return Verdict(_CHECK, "wrong", message, remedy)
    if disk.free_bytes < most:
        message += f", and all that is stored may need {decimal(most)}"
        return Verdict(_CHECK, "warning", message, remedy)
    return Verdict(_CHECK, "ok", f"{message}; needs about {decimal(most)}")
