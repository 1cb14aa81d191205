"""What torch makes of this machine's GPUs, as one JSON line; run as a file, in its own process.

A driver that hangs hangs this process only, and what CUDA takes is given back at its end. Must not
import this package: it runs where only torch may be there.
"""

import json
import warnings
from typing import Any

import torch


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "built_for": torch.version.cuda,
        "gpus": [_try(n) for n in range(torch.cuda.device_count())] if is_available else [],
        "nccl": _nccl(),
        "reason": " ".join(str(caught[0].message).split())[:300] if caught else None,
    }
    if len(found["gpus"]) > 1 and found["nccl"] and not any(g["problem"] for g in found["gpus"]):
        found["together"] = _try_together(len(found["gpus"]))
    print(json.dumps(found))


def _try(number: int) -> dict[str, Any]:
    """Its name and memory, and whether it multiplies."""
    problem = None
    try:
        ones = torch.ones(128, 128, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 128.0**3:
            problem = "computes wrongly"
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
    """A sum over the GPUs of this machine through NCCL; what went wrong, if something did."""
    try:
        tensors = [torch.ones(1024, device=f"cuda:{n}") for n in range(count)]
        torch.cuda.nccl.all_reduce(tensors)  # type: ignore[no-untyped-call]
        is_right = all(float(t.sum()) == 1024.0 * count for t in tensors)
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None if is_right else "sums wrongly"


if __name__ == "__main__":
    main()
