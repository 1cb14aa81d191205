"""The bundle's weights in torch, on a CPU or a GPU."""

import torch
from torch import Tensor

from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS
from mbti_ray.inference.bundle import Bundle, load_model

# Processors differ in the last digits of float32 only.
_TOLERANCE = 1e-3


class TorchRuntime:
    """See `Runtime`."""

    def __init__(self, bundle: Bundle, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.min_efficient_tokens = MIN_EFFICIENT_TOKENS[self.device.type]
        self.golden = [g.logits for g in bundle.manifest.golden]
        self.tolerance = _TOLERANCE
        self._model = load_model(bundle).to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        logits: Tensor = self._model(input_ids, attention_mask)
        return logits
