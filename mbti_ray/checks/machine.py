"""Collects the facts of one machine for all checks, on this machine or in a task on a node."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mbti_ray.checks.autoscaler import Autoscaler, find_autoscaler
from mbti_ray.checks.disk import Disk, measure_disk
from mbti_ray.checks.encoder import inspect_encoder
from mbti_ray.checks.gpu import Gpus, find_driver, probe_gpus
from mbti_ray.checks.network import gloo_address
from mbti_ray.checks.storage import StorageReport
from mbti_ray.checks.token import Token, find_token
from mbti_ray.checks.verdict import Verdict
from mbti_ray.checks.versions import installed_versions, torch_cuda_version


@dataclass(frozen=True)
class MachineQuery:
    """What to inspect on a machine: 0 s for the GPUs skips them, `logs` is of the autoscaler."""

    encoder: str
    ray_folder: Path
    gpu_timeout_s: float = 0.0
    logs: Path | None = None


@dataclass(frozen=True)
class MachineReport:
    """The facts of one machine; `encoder` with the bytes of its weights there."""

    versions: dict[str, str]
    token: Token
    encoder: tuple[Verdict, int]
    disk: Disk
    gpus: Gpus
    storage: StorageReport | None
    autoscaler: Autoscaler | None
    gloo_address: str | None
    duration_s: float
    # Last, to be close to the time of the reply.
    clock_s: float = field(default_factory=time.time)


def inspect_machine(
    query: MachineQuery, check_storage: Callable[[], StorageReport] | None = None
) -> MachineReport:
    """Inspect the machine that this is called on; see `StorageMarkers.exchange` for its storage."""
    started = time.monotonic()
    # Each of these may wait for another process or machine.
    with ThreadPoolExecutor(3) as pool:
        gpus = pool.submit(_find_gpus, query.gpu_timeout_s)
        encoder = pool.submit(inspect_encoder, query.encoder)
        storage = pool.submit(check_storage) if check_storage else None
        return MachineReport(
            versions=installed_versions(),
            token=find_token(),
            disk=measure_disk(query.ray_folder),
            autoscaler=find_autoscaler(query.logs) if query.logs else None,
            gloo_address=gloo_address(),
            encoder=encoder.result(),
            gpus=gpus.result(),
            storage=storage.result() if storage else None,
            duration_s=time.monotonic() - started,
        )


def _find_gpus(timeout_s: float) -> Gpus:
    driver, built_for = find_driver(), torch_cuda_version()
    if timeout_s > 0 and driver is not None and built_for is not None:
        return probe_gpus(built_for, timeout_s=timeout_s)
    return Gpus(driver, built_for)
