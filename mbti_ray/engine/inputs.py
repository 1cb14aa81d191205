"""What the loop trains on and reads: tokens through the whole model, or features into the heads.

Both answer the same three questions, so the loop does not know which it has. Knows configs,
splits and ranks; must not know epochs, scores or checkpoints.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from mbti_ray.config.schema import FitConfig, RunConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.dataloader import Feed, Portion
from mbti_ray.engine.frozen_features import FeatureFeed, HeadsOnly
from mbti_ray.engine.precision import Precision
from mbti_ray.engine.validation import Reader, read_features, read_rows
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel, pack_attention


class Inputs(Protocol):
    """What the loop needs of its data."""

    @property
    def module(self) -> nn.Module:
        """What is trained, before it is wrapped for several ranks."""

    def portions(self, steps: Sequence[Indices]) -> Iterator[Portion]:
        """This rank's part of each step of the training split."""

    def read(self, split: str) -> Tensor:
        """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank."""


def build_inputs(
    config: RunConfig, data: Dataset, worker: Worker, model: MBTIModel, precision: Precision
) -> Inputs:
    """Features where only the heads are trained, else tokens."""
    reader = Reader(
        model,
        precision,
        worker.device,
        batch_tokens=config.fit.batch_size * config.model.max_tokens,
        pad_id=data.tokenizer.pad_token_id,
    )
    if config.model.trainable == "heads":
        return _Features(data, worker, reader)
    return _Tokens(config.fit, data, worker, reader)


class _Tokens:
    def __init__(self, fit: FitConfig, data: Dataset, worker: Worker, reader: Reader) -> None:
        self._data, self._worker, self._reader = data, worker, reader
        self.module: nn.Module = reader.model
        if fit.compile:
            # Lengths change from batch to batch; one dynamic graph serves them all.
            self.module = cast(nn.Module, torch.compile(reader.model, dynamic=True))
        self._feed = Feed(
            data.splits["train"],
            rank=worker.rank,
            world_size=worker.world_size,
            batch_tokens=reader.batch_tokens,
            pad_id=reader.pad_id,
            device=worker.device,
            packed=fit.attention == "packed",
        )
        if self._feed.packed:
            pack_attention(reader.model)

    def portions(self, steps: Sequence[Indices]) -> Iterator[Portion]:
        return self._feed.portions(steps)

    def read(self, split: str) -> Tensor:
        return read_rows(self._reader.logits, self._data.splits[split], self._worker)


class _Features:
    def __init__(self, data: Dataset, worker: Worker, reader: Reader) -> None:
        self._data, self._worker, self._reader = data, worker, reader
        self.module: nn.Module = HeadsOnly(reader.model)
        self._read: dict[str, Tensor] = {}

    def portions(self, steps: Sequence[Indices]) -> Iterator[Portion]:
        feed = FeatureFeed(
            self._data.splits["train"],
            self._of("train"),
            rank=self._worker.rank,
            world_size=self._worker.world_size,
        )
        return feed.portions(steps)

    def read(self, split: str) -> Tensor:
        features = self._of(split)
        model = self._reader.model.eval()

        @torch.inference_mode()
        def decide(windows: Windows, members: Indices) -> Tensor:
            return model.decide(features[torch.from_numpy(members).to(features.device)])

        return read_rows(decide, self._data.splits[split], self._worker)

    def _of(self, split: str) -> Tensor:
        """Features [N, H] of a split, read when they are first needed."""
        if split not in self._read:
            windows = self._data.splits[split]
            self._read[split] = read_features(self._reader, windows, self._worker)
        return self._read[split]
