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
from mbti_ray.checks.token import Token, find_token
from mbti_ray.checks.verdict import Verdict
from mbti_ray.checks.versions import installed_versions, torch_cuda_version


@dataclass(frozen=True)
class MachineReport:
    """The facts of one machine; for `storage_fault` see `StorageMarkers.exchange`.

    `encoder` says whether it can be loaded, and the bytes of its weights there.
    """

    versions: dict[str, str]
    token: Token
    encoder: tuple[Verdict, int]
    disk: Disk
    gpus: Gpus
    storage_fault: str | None
    autoscaler: Autoscaler | None
    gloo_address: str | None
    duration_s: float
    # Last, to be close to the time of the reply.
    clock_s: float = field(default_factory=time.time)


def inspect_machine(
    encoder: str,
    ray_folder: Path,
    *,
    gpu_timeout_s: float = 0.0,
    logs: Path | None = None,
    check_storage: Callable[[], str | None] = lambda: None,
) -> MachineReport:
    """Inspect the machine that this is called on; at `gpu_timeout_s=0` no GPU is probed.

    `logs` is the log folder of the autoscaler, if it may run here.
    """
    started = time.monotonic()
    # Each of these may wait for another process or machine.
    with ThreadPoolExecutor(3) as pool:
        gpus = pool.submit(_find_gpus, gpu_timeout_s)
        found = pool.submit(inspect_encoder, encoder)
        storage_fault = pool.submit(check_storage)
        return MachineReport(
            versions=installed_versions(),
            token=find_token(),
            disk=measure_disk(ray_folder),
            autoscaler=find_autoscaler(logs) if logs else None,
            gloo_address=gloo_address(),
            encoder=found.result(),
            gpus=gpus.result(),
            storage_fault=storage_fault.result(),
            duration_s=time.monotonic() - started,
        )


def _find_gpus(timeout_s: float) -> Gpus:
    driver, built_for = find_driver(), torch_cuda_version()
    if timeout_s > 0 and driver is not None and built_for is not None:
        return probe_gpus(built_for, timeout_s=timeout_s)
    return Gpus(driver, built_for)
