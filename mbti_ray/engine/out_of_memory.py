"""Out of memory: recognized, and recovered from outside of the exception.

The traceback of an exception holds the activations of the failed pass, so memory can only be freed
after it. Must not know models or steps.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from mbti_ray.errors import RunError

Result = TypeVar("Result")

# What libraries report of a failed allocation without torch's own exception.
_MESSAGES = ("out of memory", "alloc_failed", "can't allocate memory")


def unless_out_of_memory(compute: Callable[[], Result]) -> Result | None:
    """The result of `compute`, or None where memory ran out."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(
            message in str(error).lower() for message in _MESSAGES
        ):
            raise
        return None


def free_cached_memory(device: torch.device) -> None:
    """Return the GPU memory that torch caches but does not use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(what: str, tokens: int, device: torch.device) -> RunError:
    """The error where batches cannot be divided any further, below one window or one person."""
    setting = "fit.posts" if what == "person" else "model.max_tokens"
    return RunError(
        f"out of memory: not even one {what} of {tokens} tokens fits on {device}; try a lower "
        f"{setting}, fit.gradient_checkpointing=true, or a smaller model.encoder"
    )
