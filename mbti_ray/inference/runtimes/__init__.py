"""The runtimes that compute a bundle's logits: torch, or ONNX Runtime in float32 or int8.

A runtime maps token ids and an attention mask to logits. Must not know texts, how windows are
pooled into rows, Ray or HTTP.

Shapes: B windows, T tokens, G golden texts, 4 dimensions in the order E, N, T, J.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from mbti_ray.inference.bundle import Bundle
from mbti_ray.inference.runtimes.onnx_runtime import OnnxRuntime
from mbti_ray.inference.runtimes.torch_runtime import TorchRuntime

RuntimeKind = Literal["torch", "onnx", "onnx-int8"]


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        device: Device of the inputs and of the logits.
        min_efficient_tokens: A smaller batch leaves the device idle; see `batches_by_length`.
        golden: Logits [G, 4] of the golden texts, which the runtime has to reproduce.
        tolerance: Largest allowed difference from `golden` at logits up to 1; larger logits may
            differ in proportion, since processors add in another order.
    """

    device: torch.device
    min_efficient_tokens: int
    golden: list[list[float]]
    tolerance: float

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits [B, 4] for ids int64 [B, T] and mask bool [B, T]; None means no padding."""


def load_runtime(
    bundle: Bundle,
    kind: RuntimeKind = "torch",
    *,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> Runtime:
    """Load a bundle into a runtime.

    Args:
        threads: Threads of ONNX Runtime, which has its own pool; None means all cores.

    Raises:
        BundleError: The bundle is damaged, or has no export for this runtime.
        ConfigError: ONNX Runtime is not installed.
    """
    if kind == "torch":
        return TorchRuntime(bundle, device)
    return OnnxRuntime(bundle, kind, threads)
