"""The runtimes that compute a bundle's logits: torch, ONNX Runtime in float32 or int8, or NumPy.

A runtime maps the token ids of windows to their outputs, and those to logits of rows. Must not know
texts, Ray or HTTP.

Shapes: B windows, W outputs of a window (see `MBTIModel`), R rows, G golden texts, 4 dimensions in
the order E, N, T, J.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mbti_ray.config.serve_section import ServePrecision
from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS
from mbti_ray.data.collate import Groups, Packing, pad
from mbti_ray.data.windows import TokenIds
from mbti_ray.errors import BundleError, ConfigError
from mbti_ray.inference.bundle import Bundle, load_model
from mbti_ray.inference.runtimes.onnx_runtime import OnnxRuntime
from mbti_ray.inference.runtimes.tfidf_runtime import TfidfRuntime
from mbti_ray.model.classifier import to_device
from mbti_ray.model.packed_bert import PackedBert

# What autocast computes in, and how far golden logits may be off. Processors differ in the last
# digits of float32 only; MiniLM in bf16 was off by 0.014.
_PRECISIONS: dict[str, tuple[torch.dtype | None, float]] = {
    "32": (None, 1e-3),
    "bf16": (torch.bfloat16, 0.05),
    "fp16": (torch.float16, 0.01),
}

NO_GRAPH = "is TF-IDF, which runs in NumPy and has no graph for ONNX Runtime"

RuntimeKind = Literal["torch", "onnx", "onnx-int8"]


class Runtime(Protocol):
    """A loaded model, which several threads may call: each with its own `torch.get_num_threads()`.

    Attributes:
        device: Device of the outputs.
        pads: Whether windows of a pass are padded to the longest; else only their tokens count.
        min_efficient_tokens: A smaller batch leaves the device idle; see `batches_by_length`.
        output_size: W.
        golden: Logits [G, 4] of the golden texts, which the runtime has to reproduce.
        tolerance: Largest allowed difference from `golden` at logits up to 1; larger logits may
            differ in proportion, since processors add in another order.
    """

    device: torch.device
    pads: bool
    min_efficient_tokens: int
    output_size: int
    golden: list[list[float]]
    tolerance: float

    def __call__(self, windows: Sequence[TokenIds]) -> Tensor:
        """Outputs [B, W] of the windows of one pass, on the device."""

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        """Logits [R, 4] of rows from the outputs of their windows."""


class TorchRuntime:
    """The weights in torch, on a CPU or a GPU."""

    def __init__(
        self,
        bundle: Bundle,
        device: str | torch.device,
        precision: ServePrecision,
        *,
        packed: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.min_efficient_tokens = MIN_EFFICIENT_TOKENS[self.device.type]
        self.golden = [g.logits for g in bundle.manifest.golden]
        self._dtype, self.tolerance = _PRECISIONS[_resolve(precision, self.device)]
        # On a CPU padding takes as long as text does.
        model = load_model(bundle, packed=packed and self.device.type == "cpu")
        self._model = to_device(model, self.device)
        self.pads = not isinstance(model.encoder, PackedBert)
        if self._dtype is not None:
            # Once, where autocast would convert them in each pass; norms stay float32.
            for layer in self._model.encoder.modules():
                if isinstance(layer, nn.Linear):
                    layer.to(self._dtype)
        self.output_size = self._model.output_size
        assert bundle.tokenizer is not None
        self._pad_id = bundle.tokenizer.pad_token_id

    @torch.inference_mode()
    def __call__(self, windows: Sequence[TokenIds]) -> Tensor:
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            if self.pads:
                ids, mask = pad(windows, pad_id=self._pad_id)
                mask = None if mask is None else mask.to(self.device)
                outputs: Tensor = self._model(ids.to(self.device), mask)
            else:
                outputs = self._compute_packed(windows)
        return outputs.float()

    def _compute_packed(self, windows: Sequence[TokenIds]) -> Tensor:
        # Windows of equal length side by side: attention computes them together.
        order = sorted(range(len(windows)), key=lambda place: -len(windows[place]))
        packing = Packing.of(tuple(len(windows[place]) for place in order))
        ids = torch.tensor([[*chain.from_iterable(windows[place] for place in order)]])
        outputs = self._model(ids, packing=packing)
        return torch.empty_like(outputs).index_copy_(0, torch.tensor(order), outputs)

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        return self._model.pool(outputs, groups)


def _resolve(precision: ServePrecision, device: torch.device) -> str:
    """auto is 32 on a CPU: a text has the logits that `evaluate` scored, in any batch."""
    if device.type == "cpu":
        if precision == "fp16":
            raise ConfigError("serve.precision=fp16: is for GPUs; allowed on a CPU: auto, 32, bf16")
        return "32" if precision == "auto" else precision
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def load_runtime(
    bundle: Bundle,
    kind: RuntimeKind = "torch",
    *,
    device: str | torch.device = "cpu",
    precision: ServePrecision = "32",
    packed: bool = True,
) -> Runtime:
    """Load a bundle into a runtime.

    Args:
        precision: Of torch; the others have their own.
        packed: Of torch on a CPU: whether it may compute by `PackedBert`.

    A bundle without an encoder has one runtime, which needs neither torch's kernels nor a GPU.

    Raises:
        BundleError: The bundle is damaged, or has no export for this runtime.
        ConfigError: ONNX Runtime is not installed; or the device does not have the precision.
    """
    if bundle.manifest.model.reader == "tfidf":
        if kind != "torch":
            raise BundleError(f"{bundle.folder}: {NO_GRAPH}; leave out serve.runtime={kind}")
        return TfidfRuntime(bundle)
    if kind == "torch":
        return TorchRuntime(bundle, device, precision, packed=packed)
    return OnnxRuntime(bundle, kind)
