"""What the loop trains on: token ids through the whole model, or cached features into the heads.

Both have one interface, so the loop does not know which of them it has. Knows configs, splits and
ranks; must not know epochs, scores or checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from mbti_ray.config.schema import FitConfig, RunConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.dataloader import StepBatches, TokenDataLoader
from mbti_ray.engine.frozen_features import FeatureDataLoader, HeadsOnly
from mbti_ray.engine.validation import Evaluator, extract_features, predict_rows
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel, Stage, set_trainable, use_packed_attention
from mbti_ray.model.encoder import head_size
from mbti_ray.model.packed_attention import varlen_problem


class TokenInputs:
    """The whole model on token ids."""

    def __init__(self, fit: FitConfig, data: Dataset, worker: Worker, evaluator: Evaluator) -> None:
        self._data, self._worker, self._evaluator = data, worker, evaluator
        self._compiles = fit.compile
        self._stage: Stage | None = None
        self._module: nn.Module = evaluator.model
        self._loader = TokenDataLoader(
            data.splits["train"],
            rank=worker.rank,
            world_size=worker.world_size,
            batch_tokens=evaluator.batch_tokens,
            pad_id=evaluator.pad_id,
            device=worker.device,
            packed=fit.attention == "packed",
        )
        if self._loader.packed:
            use_packed_attention(evaluator.model)
            self._note_fallback()

    def _note_fallback(self) -> None:
        worker, encoder = self._worker, self._evaluator.model.encoder
        if worker.device.type != "cuda":
            return
        problem = varlen_problem(worker.device, self._evaluator.dtype, head_size(encoder))
        if problem:
            worker.note(
                f"fit.attention=packed runs without variable-length attention: {problem}; windows "
                "of equal length are attended to together"
            )

    def prepare(self, stage: Stage) -> nn.Module:
        """The module that a stage trains, in training mode."""
        if stage != self._stage:
            self._stage = stage
            set_trainable(self._evaluator.model, stage)
            if self._compiles:
                # Beyond eight graphs of a function torch runs it eagerly, without a word: those of
                # earlier stages and runs of this process must not count.
                torch.compiler.reset()
                # Lengths change from batch to batch; a dynamic graph serves them all.
                self._module = cast(nn.Module, torch.compile(self._evaluator.model, dynamic=True))
        return self._module.train()

    def train_batches(self, steps: Sequence[Indices]) -> Iterator[StepBatches]:
        """This rank's batches of each step of the training split."""
        return self._loader.iterate(steps)

    def predict(self, split: str, *, as_served: bool = False) -> Tensor:
        """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank.

        Args:
            as_served: Compute in float32, as serving does, whatever the precision of training.
        """
        evaluator = replace(self._evaluator, dtype=None) if as_served else self._evaluator
        return predict_rows(evaluator.logits, self._data.splits[split], self._worker)


class FeatureInputs:
    """The heads on cached features; the same interface."""

    def __init__(self, data: Dataset, worker: Worker, evaluator: Evaluator) -> None:
        self._data, self._worker, self._evaluator = data, worker, evaluator
        self._cached: dict[tuple[str, torch.dtype | None], Tensor] = {}

    def prepare(self, stage: Stage) -> nn.Module:
        set_trainable(self._evaluator.model, stage)
        return HeadsOnly(self._evaluator.model).train()

    def train_batches(self, steps: Sequence[Indices]) -> Iterator[StepBatches]:
        loader = FeatureDataLoader(
            self._data.splits["train"],
            self._features("train", self._evaluator),
            rank=self._worker.rank,
            world_size=self._worker.world_size,
        )
        return loader.iterate(steps)

    def predict(self, split: str, *, as_served: bool = False) -> Tensor:
        evaluator = replace(self._evaluator, dtype=None) if as_served else self._evaluator
        features = self._features(split, evaluator)
        model = self._evaluator.model.eval()

        @torch.inference_mode()
        def apply_heads(windows: Windows, members: Indices) -> Tensor:
            mine = features[torch.from_numpy(members).to(features.device)]
            return model.apply_heads(mine.to(self._worker.device))

        return predict_rows(apply_heads, self._data.splits[split], self._worker)

    def _features(self, split: str, evaluator: Evaluator) -> Tensor:
        """Features [N, H] of a split, extracted when they are first needed."""
        key = split, evaluator.dtype
        if key not in self._cached:
            windows = self._data.splits[split]
            self._cached[key] = extract_features(evaluator, windows, self._worker)
        return self._cached[key]


def build_inputs(
    config: RunConfig, data: Dataset, worker: Worker, model: MBTIModel, dtype: torch.dtype | None
) -> TokenInputs | FeatureInputs:
    """Cached features where only the heads are trained, token ids otherwise."""
    evaluator = Evaluator(
        model,
        dtype,
        worker.device,
        batch_tokens=config.fit.batch_size * config.model.max_tokens,
        pad_id=data.tokenizer.pad_token_id,
    )
    if config.model.trainable == "heads":
        return FeatureInputs(data, worker, evaluator)
    return TokenInputs(config.fit, data, worker, evaluator)
