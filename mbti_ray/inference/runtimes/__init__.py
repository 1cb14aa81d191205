"""What computes a bundle's logits: torch, or ONNX Runtime in float32 or int8.

Each runtime takes ids and a mask and gives logits; which one, and on what, is chosen here. Knows
nothing of texts, of pooling windows to rows, of Ray or of HTTP.

Legend: B windows, T tokens, 4 dimensions in the order E, N, T, J.
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
        device: Where ids are to be and logits are.
        min_efficient_tokens: A smaller batch leaves the processor idle; see `batches_by_length`.
        golden: The logits of the golden texts that it has to reproduce, [G, 4].
        tolerance: By how much it may miss them: other processors round differently.
    """

    device: torch.device
    min_efficient_tokens: int
    golden: list[list[float]]
    tolerance: float

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits [B, 4] of ids int64 [B, T] and a mask bool [B, T], None where all are real."""


def load_runtime(
    bundle: Bundle,
    kind: RuntimeKind = "torch",
    *,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> Runtime:
    """The runtime of a bundle.

    Args:
        threads: For ONNX Runtime, which has threads of its own; None is all cores.

    Raises:
        BundleError: The bundle is damaged, or holds no export for this runtime.
        ConfigError: ONNX Runtime is not installed.
    """
    if kind == "torch":
        return TorchRuntime(bundle, device)
    return OnnxRuntime(bundle, kind, threads)
