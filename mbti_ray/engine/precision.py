"""What `fit.precision` means on a device: the dtype that autocast computes in."""

import torch

# None computes in the weights' own float32.
_DTYPES = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def resolve_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype; None computes in float32. Only float16 needs loss scaling.

    `auto` is bf16 where the GPU has it in hardware, float16 on older ones, 32 on a CPU.
    """
    if name == "auto" and device.type != "cuda":
        name = "32"
    elif name == "auto":
        # Before compute capability 8.0, bf16 is emulated and slower than float16.
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        name = "bf16-mixed" if has_bf16 else "16-mixed"
    return _DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`; float32 for None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
