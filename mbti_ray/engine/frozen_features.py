"""Training the heads alone: the encoder reads every window once, then epochs cost next to nothing.

The frozen encoder is used as it will be served, without dropout. Only the heads' dropout stays.
Knows the model and windows; must not know configs or checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbti_ray.data.batch_sampler import Indices, share_of
from mbti_ray.data.collate import Batch
from mbti_ray.data.windows import Windows
from mbti_ray.engine.dataloader import Portion
from mbti_ray.model.classifier import MBTIModel


class HeadsOnly(nn.Module):
    """The model from the pooled features on; its parameters are those of the model's heads."""

    def __init__(self, model: MBTIModel) -> None:
        super().__init__()
        self.dropout, self.heads = model.dropout, model.heads

    def forward(
        self, features: Tensor, attention_mask: Tensor | None, packing: object = None
    ) -> Tensor:
        """Logits [B, 4] of features [B, H]; there are no tokens left to mask or to pack."""
        logits: Tensor = self.heads(self.dropout(features))
        return logits


@dataclass(frozen=True)
class FeatureFeed:
    """As `Feed`, of features [N, H] instead of tokens."""

    windows: Windows
    features: Tensor
    rank: int
    world_size: int

    def portions(self, steps: Sequence[Indices]) -> Iterator[Portion]:
        return map(self.portion, steps)

    def portion(self, step: Indices) -> Portion:
        """This rank's part of one step, in one batch."""
        lengths, windows = self.windows.lengths, self.windows
        all_tokens = int(lengths[step].max()) * len(step)
        share = share_of(
            step,
            lengths,
            rank=self.rank,
            world_size=self.world_size,
            batch_tokens=all_tokens,
            min_efficient_tokens=all_tokens,
        )
        (indices,) = share.batches
        labels = torch.from_numpy(windows.labels[windows.row_index[indices]]).float()
        batch = Batch(
            self.features[torch.from_numpy(indices).to(self.features.device)],
            None,
            labels,
            torch.full((len(indices),), share.weight),
        )
        tokens = int(lengths[indices].sum())
        return Portion([batch], share.step_windows, tokens=tokens, padded=tokens)
