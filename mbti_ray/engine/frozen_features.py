"""Training the heads alone: a frozen encoder encodes every window once, then epochs are cheap.

The encoder runs as it is served, without dropout; only the heads' dropout remains. Must not know
configs or checkpoints.
"""

from torch import Tensor, nn

from mbti_ray.data.collate import Groups
from mbti_ray.model.classifier import MBTIModel


class HeadsOnly(nn.Module):
    """The part of a model behind the encoder; its parameters are the model's own."""

    def __init__(self, model: MBTIModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: Tensor, attention_mask: Tensor | None = None, packing: object = None
    ) -> Tensor:
        """As the model's, of features [B, H]; mask and packing are those of a token batch: None."""
        return self.model.read_features(features)

    def pool(self, outputs: Tensor, groups: Groups) -> Tensor:
        return self.model.pool(outputs, groups)
