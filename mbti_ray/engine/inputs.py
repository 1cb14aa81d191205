"""What the loop trains on: token ids through the whole model, or cached features into the heads.

The loop does not know which of them it has. Must not know scores or checkpoints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batch_sampler import Indices
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.instances import Instances
from mbti_ray.data.windows import Windows
from mbti_ray.engine.dataloader import StepBatches, StepLoader
from mbti_ray.engine.features import FrozenFeatures
from mbti_ray.engine.validation import Evaluator, predict_rows
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import (
    MBTIModel,
    Stage,
    replace_attention,
    set_trainable,
    use_packed_attention,
)
from mbti_ray.model.cpu_dropout import use_cpu_dropout
from mbti_ray.model.packed_attention import varlen_problem

Dtype = torch.dtype | None


class Inputs:
    """The data side of a run."""

    def __init__(
        self, config: RunConfig, data: Dataset, worker: Worker, model: MBTIModel, dtype: Dtype
    ) -> None:
        self._fit, self._data, self._worker, self._model = config.fit, data, worker, model
        self._evaluator = Evaluator(
            model,
            dtype,
            worker.device,
            batch_tokens=config.fit.batch_size * config.model.max_tokens,
            pad_id=data.tokenizer.pad_token_id,
        )
        self.instances = Instances.of(config, data.splits["train"])
        self._only_heads = config.model.trainable == "heads"
        self.frozen = FrozenFeatures(model, data.folder, worker)
        self._stage: Stage | None = None
        self._graphs_before = _graphs() if config.fit.compile else 0
        self._module: nn.Module = model
        if self._is_packed:
            use_packed_attention(model)
            self._note_fallback()
        if worker.device.type == "cpu" and not config.fit.compile:
            use_cpu_dropout(model.encoder)
            replace_attention(model)

    @property
    def _is_packed(self) -> bool:
        return self._fit.attention == "packed" and not self._only_heads

    def _note_fallback(self) -> None:
        if self._worker.device.type != "cuda":
            return
        encoder: Any = self._model.encoder.config
        size = encoder.hidden_size // encoder.num_attention_heads
        problem = varlen_problem(self._worker.device, self._evaluator.dtype, size)
        if problem:
            self._worker.note(
                f"fit.attention=packed runs without variable-length attention: {problem}; windows "
                "of equal length are attended to together"
            )

    def prepare(self, stage: Stage) -> nn.Module:
        """The module that a stage trains, in training mode."""
        if stage != self._stage:
            self._stage = stage
            set_trainable(self._model, stage)
            if self._fit.compile and not self._only_heads:
                # Beyond eight graphs of a function torch runs it eagerly, without a word: those of
                # earlier stages and runs of this process must not count.
                torch.compiler.reset()
                # Lengths change from batch to batch; a dynamic graph serves them all.
                self._module = cast(nn.Module, torch.compile(self._model, dynamic=True))
        return self._module.train()

    @property
    def graphs(self) -> int:
        """How many graphs torch.compile has made in this run."""
        return _graphs() - self._graphs_before if self._fit.compile else 0

    def train_batches(self, steps: Sequence[Indices], *, epoch: int) -> Iterator[StepBatches]:
        """This rank's batches of each of the steps of an epoch."""
        worker, evaluator = self._worker, self._evaluator
        loader = StepLoader(
            self.instances,
            epoch,
            worker=worker,
            batch_tokens=evaluator.batch_tokens,
            pad_id=evaluator.pad_id,
            packed=self._is_packed,
            features=(
                self.frozen.of(self._data.splits["train"], evaluator) if self._only_heads else None
            ),
        )
        return loader.iterate(steps)

    def predict(self, split: str, *, as_served: bool = False) -> Tensor:
        """Logits [R, 4] of all rows of a split, float64 on the CPU, the same on every rank.

        `as_served` computes in float32, as serving does, whatever the precision of training.
        """
        evaluator = replace(self._evaluator, dtype=None) if as_served else self._evaluator
        outputs = evaluator.outputs
        if self._only_heads:
            features = self.frozen.of(self._data.splits[split], evaluator)
            read = self._model.eval().read_features

            @torch.inference_mode()
            def outputs(windows: Windows, members: Indices) -> Tensor:
                mine = features[torch.from_numpy(members).to(features.device)]
                return read(mine.to(self._worker.device))

        return predict_rows(outputs, self._model, self._data.splits[split], self._worker)

    def predict_windows(self, windows: Windows) -> Tensor:
        """Logits [R, 4] of rows that are no split, as `predict` has them, as served."""
        outputs = replace(self._evaluator, dtype=None).outputs
        return predict_rows(outputs, self._model, windows, self._worker)


def _graphs() -> int:
    from torch._dynamo.utils import counters  # takes as long to import as torch itself

    return int(counters["stats"]["unique_graphs"])
