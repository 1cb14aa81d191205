"""What `fit.precision` means on the devices of a run: the dtype that autocast computes in."""

import torch

from mbti_ray.engine.worker import Worker

# Encoders of 64 dimensions train no faster in bf16 on a CPU; from 128 on 1.6 to 2.4 times as fast.
_LEAST_HIDDEN_SIZE = 128
# From the least to the most demanding of the hardware. Only float16 needs loss scaling.
_DTYPES = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def resolve_precision(precision: str, worker: Worker, *, hidden_size: int) -> str:
    """The precision of a run; every rank calls this, and all of them get the same.

    `auto` is the most demanding one that all ranks have in hardware: bf16; float16 on GPUs before
    compute capability 8.0, which emulate bf16 slowly; 32 on a CPU without bf16, or for an encoder
    too small to gain from it.
    """
    if precision != "auto":
        return precision
    if worker.device.type == "cuda":
        has_bf16 = torch.cuda.get_device_capability(worker.device) >= (8, 0)
        best = "bf16-mixed" if has_bf16 else "16-mixed"
    else:
        # In hardware: AVX512-BF16 or AMX.
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        best = "bf16-mixed" if has_bf16 and hidden_size >= _LEAST_HIDDEN_SIZE else "32"
    ranks = worker.all_reduce(torch.tensor([float(name == best) for name in _DTYPES]))
    return next(name for name, count in zip(_DTYPES, ranks.tolist(), strict=True) if count)


def dtype_of(precision: str) -> torch.dtype | None:
    """What autocast computes in; None computes in the weights' own float32."""
    return _DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`; float32 for None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
