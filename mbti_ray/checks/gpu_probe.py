"""Computes on the GPUs of this machine with torch and prints one JSON line; run as a script.

If a driver hangs, only this process hangs, and its CUDA memory is freed at its end. Must not import
this package: it runs where perhaps only torch is installed.
"""

import json
import warnings
from collections.abc import Callable

import torch


def main() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [
        {
            "name": torch.cuda.get_device_name(n),
            "memory_bytes": torch.cuda.get_device_properties(n).total_memory,
            "problem": _problem(lambda n=n: _multiplies(n)),  # type: ignore[misc]
        }
        for n in range(count)
    ]
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    version = torch.cuda.nccl.version() if has_nccl else ()  # type: ignore[no-untyped-call]
    is_tried = count > 1 and has_nccl and not any(gpu["problem"] for gpu in gpus)
    report = {
        "torch": torch.__version__,
        "gpus": gpus,
        "nccl": ".".join(map(str, version)) or None,
        "reason": " ".join(str(caught[0].message).split())[:300] if caught else None,
        "together": _problem(lambda: _reduces(count)) if is_tried else None,
    }
    print(json.dumps(report))


def _problem(is_right: Callable[[], bool]) -> str | None:
    try:
        return None if is_right() else "wrong results"
    except Exception as error:
        return " ".join(str(error).split())[:200]


def _multiplies(number: int) -> bool:
    ones = torch.ones(128, 128, device=f"cuda:{number}")
    return float((ones @ ones).sum()) == 128.0**3


def _reduces(count: int) -> bool:
    """Whether an all-reduce over the GPUs of this machine through NCCL is right."""
    tensors = [torch.ones(1024, device=f"cuda:{n}") for n in range(count)]
    torch.cuda.nccl.all_reduce(tensors)  # type: ignore[no-untyped-call]
    return all(float(t.sum()) == 1024.0 * count for t in tensors)


if __name__ == "__main__":
    main()
