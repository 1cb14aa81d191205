"""What `fit.precision` means on the devices of a run: the dtype that autocast computes in."""

import torch

from mbti_ray.engine.worker import Worker

# From the least to the most demanding of the hardware. Only float16 needs loss scaling.
_DTYPES = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def resolve_precision(precision: str, worker: Worker) -> str:
    """The precision of a run; every rank calls this, and all of them get the same.

    `auto` is the most demanding one that all ranks have in hardware: bf16, float16 on GPUs before
    compute capability 8.0, which emulate bf16 slowly, and 32 on a CPU.
    """
    if precision != "auto":
        return precision
    best = "32"
    if worker.device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(worker.device) >= (8, 0)
        best = "bf16-mixed" if has_bf16 else "16-mixed"
    ranks = worker.all_reduce(torch.tensor([float(name == best) for name in _DTYPES]))
    return next(name for name, count in zip(_DTYPES, ranks.tolist(), strict=True) if count)


def dtype_of(precision: str) -> torch.dtype | None:
    """What autocast computes in; None computes in the weights' own float32."""
    return _DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`; float32 for None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
