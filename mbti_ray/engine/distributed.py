"""Data-parallel training: the DistributedDataParallel (DDP) wrapper of a model.

Ranks exchange gradients in the last backward pass of a step only. Knows nothing of Ray: somebody
else has created the process group.
"""

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# The encoders' buffers are constants (position ids), so nothing has to be broadcast. The option
# was renamed in torch 2.13.
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers": False
}


def wrap_in_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """The model wrapped for the ranks of the current process group."""
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **_NO_BUFFERS)


def gradient_sync(model: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
    """Whether the backward pass inside exchanges gradients; a plain model never does."""
    if isinstance(model, DistributedDataParallel) and not enabled:
        return model.no_sync()
    return nullcontext()
