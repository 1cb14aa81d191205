"""The runtimes that compute a bundle's logits: torch, ONNX Runtime in float32 or int8, or NumPy.

A runtime maps token ids and an attention mask to the outputs of windows, and those to logits of
rows. Must not know texts, Ray or HTTP.

Shapes: B windows, T tokens, W outputs of a window (see `MBTIModel`), R rows, G golden texts, 4
dimensions in the order E, N, T, J.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS
from mbti_ray.data.collate import Groups
from mbti_ray.errors import BundleError
from mbti_ray.inference.bundle import Bundle, load_model
from mbti_ray.inference.runtimes.onnx_runtime import OnnxRuntime
from mbti_ray.inference.runtimes.tfidf_runtime import TfidfRuntime

# Processors differ in the last digits of float32 only.
_TOLERANCE = 1e-3

NO_GRAPH = "is TF-IDF, which runs in NumPy and has no graph for ONNX Runtime"

RuntimeKind = Literal["torch", "onnx", "onnx-int8"]


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        device: Device of the inputs and of the logits.
        min_efficient_tokens: A smaller batch leaves the device idle; see `batches_by_length`.
        output_size: W.
        golden: Logits [G, 4] of the golden texts, which the runtime has to reproduce.
        tolerance: Largest allowed difference from `golden` at logits up to 1; larger logits may
            differ in proportion, since processors add in another order.
    """

    device: torch.device
    min_efficient_tokens: int
    output_size: int
    golden: list[list[float]]
    tolerance: float

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Outputs [B, W] for ids int64 [B, T] and mask bool [B, T]; None means no padding."""

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        """Logits [R, 4] of rows from the outputs of their windows."""


class TorchRuntime:
    """The weights in torch, on a CPU or a GPU."""

    def __init__(self, bundle: Bundle, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.min_efficient_tokens = MIN_EFFICIENT_TOKENS[self.device.type]
        self.golden = [g.logits for g in bundle.manifest.golden]
        self.tolerance = _TOLERANCE
        self._model = load_model(bundle).to(self.device).eval()
        self.output_size = self._model.output_size

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self._model(input_ids, attention_mask)
        return outputs

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        return self._model.pool(outputs, groups)


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

    A bundle without an encoder has one runtime, which needs neither torch's kernels nor a GPU.

    Raises:
        BundleError: The bundle is damaged, or has no export for this runtime.
        ConfigError: ONNX Runtime is not installed.
    """
    if bundle.manifest.model.reader == "tfidf":
        if kind != "torch":
            raise BundleError(f"{bundle.folder}: {NO_GRAPH}; leave out serve.runtime={kind}")
        return TfidfRuntime(bundle)
    if kind == "torch":
        return TorchRuntime(bundle, device)
    return OnnxRuntime(bundle, kind, threads)
