"""What one machine is like, all of it together: asked here, or on a node of a cluster."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mbti_ray.checks.autoscaler import Autoscaler, find_autoscaler
from mbti_ray.checks.disk import Disk, measure_disk
from mbti_ray.checks.encoder import EncoderReport, inspect_encoder
from mbti_ray.checks.gpu import Gpus, find_driver, probe_gpus
from mbti_ray.checks.network import gloo_address
from mbti_ray.checks.storage import StorageReport
from mbti_ray.checks.token import Token, find_token
from mbti_ray.checks.versions import installed_versions, torch_cuda_version


@dataclass(frozen=True)
class MachineQuery:
    """What is looked for on a machine.

    Attributes:
        encoder: `model.encoder`.
        ray_folder: Where Ray keeps what it writes.
        gpu_timeout_s: How long torch may take on the GPUs; 0 does not ask it.
        logs: Of the head, where its autoscaler's log is.
    """

    encoder: str
    ray_folder: Path
    gpu_timeout_s: float = 0.0
    logs: Path | None = None


@dataclass(frozen=True)
class MachineReport:
    """What was found on one."""

    versions: dict[str, str]
    token: Token
    encoder: EncoderReport
    disk: Disk
    gpus: Gpus
    seen: StorageReport | None
    autoscaler: Autoscaler | None
    gloo_address: str | None
    took_s: float
    # Last, so that it is as near to the answer as can be.
    clock_s: float = field(default_factory=time.time)


def inspect_machine(
    wanted: MachineQuery, leave: Callable[[], StorageReport] | None = None
) -> MachineReport:
    """Look at the machine that this is called on.

    Args:
        leave: Looks for the driver's note in the storage folder and leaves one.
    """
    began = time.monotonic()
    # Each of these may have to wait for something else.
    with ThreadPoolExecutor(3) as pool:
        gpus = pool.submit(_find_gpus, wanted.gpu_timeout_s)
        encoder = pool.submit(inspect_encoder, wanted.encoder)
        seen = pool.submit(leave) if leave else None
        return MachineReport(
            versions=installed_versions(),
            token=find_token(),
            disk=measure_disk(wanted.ray_folder),
            autoscaler=find_autoscaler(wanted.logs) if wanted.logs else None,
            gloo_address=gloo_address(),
            encoder=encoder.result(),
            gpus=gpus.result(),
            seen=seen.result() if seen else None,
            took_s=time.monotonic() - began,
        )


def _find_gpus(timeout_s: float) -> Gpus:
    driver, built_for = find_driver(), torch_cuda_version()
    if timeout_s > 0 and driver is not None and built_for is not None:
        return probe_gpus(built_for, timeout_s=timeout_s)
    return Gpus(driver, built_for)
