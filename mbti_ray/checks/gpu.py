"""The GPUs of a machine: whether torch can compute on them, and NCCL can reduce over them."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbti_ray.checks.verdict import State, Verdict

_CHECK = "gpu"
_DRIVER = Path("/proc/driver/nvidia/version")
_GIB = 1 << 30
_WHEEL = "install torch with CUDA there (https://pytorch.org lists the builds)"


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a machine.

    Attributes:
        driver: Version of NVIDIA's driver; None if none is loaded.
        built_for: CUDA version that torch is built for; None for a build for CPUs only.
        probed: The output of `gpu_probe`; None if it has not run, or failed with a `problem`.
    """

    driver: str | None
    built_for: str | None
    probed: dict[str, Any] | None = None
    problem: str | None = None


def find_driver() -> str | None:
    """The version of NVIDIA's kernel driver."""
    with suppress(OSError):
        found = re.search(r"\d+\.\d[\d.]*", _DRIVER.read_text("utf-8"))
        return found[0] if found else "unknown"
    return None


def probe_timeout_s(gpus: float) -> float:
    """How long `probe_gpus` may take: each GPU gets a CUDA context, and NCCL connects them all."""
    return 12.0 + 4.0 * max(0.0, gpus - 1)


def probe_gpus(built_for: str | None, *, timeout_s: float) -> Gpus:
    """Compute on every GPU with torch, in a subprocess."""
    driver = find_driver()
    # -P: otherwise the other files of this folder could be imported as top-level modules.
    command = [sys.executable, "-P", str(Path(__file__).with_name("gpu_probe.py"))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Gpus(driver, built_for, problem=f"torch did not answer within {timeout_s:g} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Gpus(driver, built_for, problem=lines[-1][:200])
    return Gpus(driver, built_for, json.loads(done.stdout.splitlines()[-1]))


def judge_gpus(gpus: Gpus, *, counted: int, is_needed: bool) -> Verdict:
    """The GPUs of one machine, where Ray `counted` some; `is_needed`: a run computes on one."""
    if gpus.driver is None and not counted:
        if not is_needed:
            return Verdict(_CHECK, "ok", "none here")
        remedy = "set scaling.use_gpu=auto, or use a machine with a GPU"
        return Verdict(_CHECK, "wrong", "none here, and scaling.use_gpu needs one", remedy)
    bad: State = "wrong" if is_needed or counted else "warning"
    if gpus.built_for is None:
        message = f"{counted or 'some'} found, but torch is a build for CPUs only"
        return Verdict(_CHECK, bad, message, _WHEEL)
    remedy = f"check nvidia-smi there; driver {gpus.driver} must support CUDA {gpus.built_for}"
    if gpus.problem is not None:
        return Verdict(_CHECK, bad, f"torch failed: {gpus.problem}", remedy)
    if gpus.probed is None:
        return Verdict(_CHECK, "ok", f"{counted} found, torch is built for CUDA {gpus.built_for}")
    found, nccl = gpus.probed["gpus"], gpus.probed["nccl"]
    problems = [gpu["problem"] for gpu in found if gpu["problem"]]
    usable = len(found) - len(problems)
    if usable < max(counted, 1):
        reason = next(filter(None, [*problems, gpus.probed["reason"]]), "no reason given")
        message = f"torch can compute on {usable} of {max(counted, 1)} ({reason})"
        return Verdict(_CHECK, bad, message, remedy)
    names = ", ".join(
        f"{g['name']} {g['memory_bytes'] / _GIB:.0f} GiB" for g in found if not g["problem"]
    )
    message = f"{names}; driver {gpus.driver}, torch for CUDA {gpus.built_for}"
    if nccl is None:
        remedy = "install the build of torch for Linux that has NCCL"
        return Verdict(_CHECK, "warning", f"{message}, no NCCL: one GPU a run only", remedy)
    if problem := gpus.probed.get("together"):
        remedy = "run with NCCL_DEBUG=INFO to see which connection between the GPUs fails"
        return Verdict(_CHECK, bad, f"NCCL cannot reduce over them: {problem}", remedy)
    return Verdict(_CHECK, "ok", f"{message}, NCCL {nccl}")
