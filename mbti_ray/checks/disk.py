"""Room on the disks that a run fills: Ray's own folder, and the storage folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mbti_ray.checks.verdict import Verdict, merge_verdicts
from mbti_ray.config import RunConfig, StudyConfig

_CHECK = "disk"
_GIB = 1 << 30
# Above this share Ray stores no objects on the disk any more, and what waits for one waits.
_RAY_STOPS_AT = 0.95
_LOW_BYTES = 5 * _GIB
# A run keeps two, and writes the next before it deletes one; a trial keeps one.
_KEPT_OF_A_RUN = 2
_RAY = "Ray's folder"
_STORAGE = "storage"


@dataclass(frozen=True)
class Disk:
    """Room at a place."""

    place: str
    free_bytes: int
    total_bytes: int

    @property
    def used_share(self) -> float:
        return 1 - self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True)
class DiskNeed:
    """About what a run or study writes into the storage folder."""

    least_bytes: int
    most_bytes: int


def estimate_disk_need(config: RunConfig, weights_bytes: int) -> DiskNeed:
    """What the checkpoints and bundles of an encoder with weights of that size take.

    A checkpoint holds the weights, the best ones, and two moments of each that is trained.
    """
    copies = 2 if config.model.trainable == "heads" else 4
    checkpoint, bundle = copies * weights_bytes, weights_bytes
    trials = config.study.trials or 1 if isinstance(config, StudyConfig) else 1
    kept = trials + 1 if isinstance(config, StudyConfig) else _KEPT_OF_A_RUN + 1
    return DiskNeed(checkpoint + bundle, kept * checkpoint + bundle)


def measure_disk(place: Path) -> Disk:
    """Room on the disk that a folder is on, or would be on."""
    there = next(p for p in (place, *place.parents) if p.exists())
    usage = shutil.disk_usage(there)
    return Disk(str(place), usage.free, usage.total)


def judge_ray_disk(by_machine: Mapping[str, Disk]) -> list[Verdict]:
    """Of the disk where Ray keeps logs, and objects that memory does not hold."""
    return merge_verdicts({machine: _ray_disk(disk) for machine, disk in by_machine.items()})


def judge_storage_disk(disk: Disk, need: "DiskNeed") -> Verdict:
    """Of the disk that runs are kept on."""
    found = f"{_STORAGE} {disk.place} has {_said(disk.free_bytes)} free"
    remedy = "make room, or set storage=... to a larger disk"
    if disk.free_bytes < need.least_bytes:
        found += f", and the first checkpoint and the bundle need about {_said(need.least_bytes)}"
        return Verdict(_CHECK, "wrong", found, remedy)
    if disk.free_bytes < need.most_bytes:
        found += f", and all that is kept can come to {_said(need.most_bytes)}"
        return Verdict(_CHECK, "warning", found, remedy)
    if need.most_bytes:
        found += f"; about {_said(need.most_bytes)} are needed"
    return Verdict(_CHECK, "ok", found)


def _ray_disk(disk: Disk) -> Verdict:
    found = f"{_RAY} {disk.place} has {_said(disk.free_bytes)} free"
    remedy = "make room there, or start Ray with --temp-dir on a larger disk"
    if disk.used_share >= _RAY_STOPS_AT:
        found += f": {disk.used_share:.0%} are used, and at {_RAY_STOPS_AT:.0%} Ray stores no more"
        return Verdict(_CHECK, "wrong", found, remedy)
    if disk.free_bytes < _LOW_BYTES:
        return Verdict(_CHECK, "warning", found, remedy)
    return Verdict(_CHECK, "ok", f"{_RAY} {disk.place} has room")


def _said(count: int) -> str:
    """`3.2 GiB`, `45 MiB`."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / (1 << 20):.0f} MiB"
