"""Training the heads alone: a frozen encoder encodes every window once, then epochs are cheap.

The encoder runs as it is served, without dropout; only the heads' dropout remains. Knows the
model and windows; must not know configs or checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbti_ray.data.batch_sampler import Indices, shard
from mbti_ray.data.collate import Batch
from mbti_ray.data.windows import Windows
from mbti_ray.engine.dataloader import StepBatches
from mbti_ray.model.classifier import MBTIModel


class HeadsOnly(nn.Module):
    """The part of a model behind the pooled features; its parameters are the model's own heads."""

    def __init__(self, model: MBTIModel) -> None:
        super().__init__()
        self.dropout, self.heads = model.dropout, model.heads

    def forward(
        self, features: Tensor, attention_mask: Tensor | None, packing: object = None
    ) -> Tensor:
        """Logits [B, 4] of features [B, H]; mask and packing are those of a token batch: None."""
        logits: Tensor = self.heads(self.dropout(features))
        return logits


@dataclass(frozen=True)
class FeatureDataLoader:
    """As `TokenDataLoader`, for cached features [N, H] instead of token ids."""

    windows: Windows
    features: Tensor
    rank: int
    world_size: int

    def iterate(self, steps: Sequence[Indices]) -> Iterator[StepBatches]:
        return map(self.load, steps)

    def load(self, step: Indices) -> StepBatches:
        """This rank's part of one step, in one batch."""
        windows = self.windows
        mine, weight = shard(step, rank=self.rank, world_size=self.world_size)

        def collate_members(indices: Indices) -> Batch:
            return Batch(
                self.features[torch.from_numpy(indices).to(self.features.device)],
                None,
                torch.from_numpy(windows.labels[windows.row_index[indices]]).float(),
                torch.full((len(indices),), weight),
            )

        tokens, batches = int(windows.lengths[mine].sum()), [collate_members(mine)]
        return StepBatches(batches, [mine], collate_members, len(step), tokens, tokens)
