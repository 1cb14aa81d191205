"""The sides of benchmarks/train.py: this engine, HF Trainer and Lightning train on one task."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel, build_model

try:
    import lightning
except ImportError:
    lightning = None


@dataclass
class Run:
    """What one training of one side cost.

    Attributes:
        computed: Tokens that went through the encoder, padding included.
    """

    seconds: float = 0.0
    computed: int = 0
    loss: float = 0.0


@dataclass(frozen=True)
class Task:
    """The same for every side."""

    config: RunConfig
    data: Dataset
    device: str

    @property
    def is_bf16(self) -> bool:
        return self.config.fit.precision == "bf16-mixed"

    @property
    def windows(self) -> Windows:
        return self.data.splits["train"]

    @property
    def batch_size(self) -> int:
        return self.config.fit.step_size

    def model(self) -> MBTIModel:
        vocabulary = len(self.data.tokenizer)
        return build_model(self.config.model, vocabulary=vocabulary, seed=self.config.seed)

    def examples(self) -> list[dict[str, Any]]:
        """The windows as a trainer's dataset: token ids, a mask and four labels each."""
        w = self.windows
        ids = [w.ids[a:b].tolist() for a, b in zip(w.offsets[:-1], w.offsets[1:], strict=True)]
        labels = w.labels[w.row_index].astype(float).tolist()
        return [
            {"input_ids": i, "attention_mask": [1] * len(i), "labels": y}
            for i, y in zip(ids, labels, strict=True)
        ]


class Counting(nn.Module):
    """The model as trainers want it: the loss comes with the logits; counts what it computes."""

    def __init__(self, model: MBTIModel) -> None:
        super().__init__()
        self.model = model
        self.computed = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        self.computed += input_ids.numel()
        logits = self.model(input_ids, attention_mask.bool()).float()
        return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def with_fit(task: Task, **settings: Any) -> Task:
    """The task with other settings of `fit`."""
    fit = task.config.fit.model_copy(update=settings)
    return replace(task, config=task.config.model_copy(update={"fit": fit}))


def packed(task: Task) -> Run:
    return ours(with_fit(task, attention="packed"))


def ours(task: Task) -> Run:
    worker = Worker(device=task.device)
    run(task.config, task.data, worker, score_test=False)
    line = worker.records[-1]
    real = int(task.windows.lengths.sum())
    computed = round(real / (1 - line["speed"]["padding"]))
    return Run(line["seconds"], computed, line["train"]["loss"])


def hf(task: Task, *, sampling: str = "random") -> Run:
    model, result = Counting(task.model()), Run()

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            result.seconds = -time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            wait(task.device)
            result.seconds += time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=task.batch_size,
            learning_rate=task.config.optim.lr,
            weight_decay=task.config.optim.weight_decay,
            warmup_steps=task.config.optim.warmup_steps,
            train_sampling_strategy=sampling,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=task.device == "cpu",
            bf16=task.is_bf16,
            dataloader_pin_memory=task.device == "cuda",
        )
        trainer = transformers.Trainer(
            model,
            arguments,
            data_collator=transformers.DataCollatorWithPadding(task.data.tokenizer),
            train_dataset=task.examples(),
            callbacks=[Clock()],
        )
        result.loss = trainer.train().training_loss
    result.computed = model.computed
    return result


def hf_default(task: Task) -> Run:
    return hf(with_fit(task, precision="32"))


def hf_grouped(task: Task) -> Run:
    return hf(task, sampling="group_by_length")


def with_lightning(task: Task) -> Run:
    model, result, losses = Counting(task.model()), Run(), []

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            loss: Tensor = self.model(**batch)["loss"]
            losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optim = task.config.optim
            # Lightning refuses to clip the gradients of a fused optimizer in mixed precision.
            options = {"lr": optim.lr, "weight_decay": optim.weight_decay}
            return torch.optim.AdamW(self.parameters(), **options, fused=not task.is_bf16)

        def on_train_start(self) -> None:
            result.seconds = -time.perf_counter()

        def on_train_end(self) -> None:
            wait(task.device)
            result.seconds += time.perf_counter()

    loader = torch.utils.data.DataLoader(
        task.examples(), batch_size=task.batch_size, shuffle=True, collate_fn=padded
    )
    lightning.Trainer(
        max_epochs=1,
        accelerator="gpu" if task.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if task.is_bf16 else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=task.config.optim.clip_norm,
    ).fit(Module(), loader)
    result.computed, result.loss = model.computed, float(torch.stack(losses).mean())
    return result


def padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = [torch.tensor(e["input_ids"]) for e in examples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": torch.tensor([e["labels"] for e in examples]),
    }


SIDES: dict[str, Callable[[Task], Run]] = {
    "ours": ours,
    "packed": packed,
    "hf": hf,
    "hf_grouped": hf_grouped,
    "hf_default": hf_default,
    "lightning": with_lightning,
}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
