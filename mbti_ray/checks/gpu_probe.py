"""Computes on the GPUs of this machine with torch and prints one JSON line; run as a script.

If a driver hangs, only this process hangs, and its CUDA memory is freed at its end. Must not import
this package: it runs where perhaps only torch is installed.
"""

import json
import warnings
from typing import Any

import torch


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "built_for": torch.version.cuda,
        "gpus": [_try(n) for n in range(torch.cuda.device_count())] if is_available else [],
        "nccl": _nccl(),
        "reason": " ".join(str(caught[0].message).split())[:300] if caught else None,
    }
    if len(report["gpus"]) > 1 and report["nccl"] and not any(g["problem"] for g in report["gpus"]):
        report["together"] = _try_together(len(report["gpus"]))
    print(json.dumps(report))


def _try(number: int) -> dict[str, Any]:
    """Its name, its memory, and whether a matrix product is right."""
    problem = None
    try:
        ones = torch.ones(128, 128, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 128.0**3:
            problem = "wrong results"
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
    memory = torch.cuda.get_device_properties(number).total_memory
    return {
        "name": torch.cuda.get_device_name(number),
        "memory_bytes": memory,
        "problem": problem,
    }


def _nccl() -> str | None:
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]


def _try_together(count: int) -> str | None:
    """All-reduce over the GPUs of this machine through NCCL; returns the problem, if any."""
    try:
        tensors = [torch.ones(1024, device=f"cuda:{n}") for n in range(count)]
        torch.cuda.nccl.all_reduce(tensors)  # type: ignore[no-untyped-call]
        is_right = all(float(t.sum()) == 1024.0 * count for t in tensors)
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None if is_right else "wrong sums"


if __name__ == "__main__":
    main()
