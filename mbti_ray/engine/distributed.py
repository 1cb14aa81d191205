"""Data-parallel training over ranks: the gradient exchange of DistributedDataParallel (DDP).

DDP exchanges gradients while the last backward pass runs. A rank that runs out of memory in that
pass can neither finish nor repeat it, and the other ranks fail or hang. Here ranks exchange their
gradients when all passes of a step are done, so a rank repeats its own passes unnoticed.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

# float32 gradients of a bucket: 32 MiB.
_BUCKET_SIZE = 2**23


def bucket_gradients(model: nn.Module) -> list[Tensor]:
    """Move a model's gradients into flat buckets, of which they become views.

    All memory of the exchange is allocated here, before a rank waits for another.
    """
    buckets = []
    for parameters in _groups([p for p in model.parameters() if p.grad is not None]):
        bucket = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        pieces = torch.split(bucket, [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
        buckets.append(bucket)
    return buckets


def all_reduce_buckets(buckets: list[Tensor]) -> None:
    """Sum every bucket over the ranks, in place."""
    for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
        work.wait()


def _groups(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[int, list[nn.Parameter]] = {}
    before = 0
    for parameter in parameters:
        groups.setdefault(before // _BUCKET_SIZE, []).append(parameter)
        before += parameter.numel()
    return list(groups.values())
