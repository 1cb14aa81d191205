"""Dropout for training on a CPU, where torch draws 32 random bits for one element after another.

Must not know what it is applied to.
"""

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS = 2**16


class CPUDropout(nn.Dropout):
    """Dropout as `drop` computes it."""

    def forward(self, values: Tensor) -> Tensor:
        return drop(values, self.p) if self.training and self.p else values


def use_cpu_dropout(encoder: nn.Module) -> None:
    """Make it the dropout of an encoder."""
    for module in encoder.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CPUDropout


def drop(values: Tensor, dropout: float) -> Tensor:
    """Dropout with 16 random bits an element, from a generator that torch's seeds."""
    cut, count = round(dropout * _LEVELS), values.numel()
    random = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
    bits = random.integers(2**64 - 1, size=-(-count // 4), dtype=np.uint64, endpoint=True)
    kept = bits.view(np.uint16)[:count] >= cut
    scale = torch.tensor(_LEVELS / (_LEVELS - cut), dtype=values.dtype)
    if values.dtype == torch.bfloat16:
        # NumPy does not have it, but can multiply the bits of the scale by 0 or 1.
        bits_of_scale = np.int16(scale.view(torch.int16).item())
        product = np.multiply(kept, bits_of_scale, dtype=np.int16)
        factors = torch.from_numpy(product).view(torch.bfloat16)
    else:
        factors = torch.from_numpy(kept) * scale
    return values * factors.view(values.shape)
