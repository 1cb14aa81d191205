"""What `fit.precision` means on a device: the autocast dtype and whether the loss is scaled."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """A resolved precision.

    Attributes:
        dtype: What autocast computes in; None computes in the weights' own float32.
        scaled: Whether gradients would underflow without loss scaling (float16 only).
    """

    dtype: torch.dtype | None
    scaled: bool

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


_PRECISIONS = {
    "32": Precision(None, scaled=False),
    "bf16-mixed": Precision(torch.bfloat16, scaled=False),
    "16-mixed": Precision(torch.float16, scaled=True),
}


def resolve_precision(name: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the GPU has it in hardware, float16 on older ones, 32 on a CPU."""
    if name == "auto":
        if device.type != "cuda":
            name = "32"
        else:
            # Before compute capability 8.0, bf16 is emulated and slower than float16.
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            name = "bf16-mixed" if native else "16-mixed"
    return _PRECISIONS[name]
