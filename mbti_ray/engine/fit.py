"""The training loop. There is one: alone, distributed, and inside a trial it is this.

It knows a config, a dataset and a worker. Where reports and checkpoints go, and how many ranks
there are, is the worker's business.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batches import Indices, plan_epoch, share_of
from mbti_ray.data.prepare import Dataset
from mbti_ray.engine.checkpoint import (
    Checkpoint,
    Progress,
    State,
    load_checkpoint,
    save_checkpoint,
)
from mbti_ray.engine.evaluate import read_rows
from mbti_ray.engine.optim import build_optimizer, set_rate, warmup_decay
from mbti_ray.engine.precision import resolve_precision
from mbti_ray.engine.step import Stepper, seed_step
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import RunError
from mbti_ray.model.classifier import MBTIModel, Stage, build_model, set_trainable, stage_of
from mbti_ray.model.loss import build_loss, positive_weights
from mbti_ray.scores.counts import Counts, Scores
from mbti_ray.typology import DIMENSIONS

# Steps between two looks at the loss: each look waits for the device.
_LOOK_STEPS = 20


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves behind.

    Attributes:
        model: With the weights of the best evaluation, in evaluation mode, on the device.
        val: Scores of that evaluation.
        test: Scores of the test split under those weights; empty where it was left alone.
        val_logits: Row logits [R, 4] of the validation split under those weights, on the CPU.
        test_logits: The same of the test split.
    """

    model: MBTIModel
    progress: Progress
    val: Scores
    test: Scores
    val_logits: Tensor
    test_logits: Tensor


def run(config: RunConfig, data: Dataset, worker: Worker, *, score_test: bool = True) -> Outcome:
    """Train, stop when it is time, and read the test split with the best weights.

    Goes on from the worker's latest checkpoint where there is one.

    Args:
        score_test: False leaves the test split alone, as a trial has to.

    Raises:
        RunError: The loss is no longer a number, or a checkpoint is damaged.
    """
    fit = _Fit(config, data, worker)
    fit.restore(worker.latest_checkpoint())
    worker.rewind(fit.progress.step)
    fit.train()
    return fit.outcome(score_test=score_test)


def rescore(config: RunConfig, data: Dataset, worker: Worker, checkpoint: Path) -> Outcome:
    """The outcome of a run that has ended, or was stopped, from its last checkpoint."""
    fit = _Fit(config, data, worker)
    fit.restore(checkpoint)
    return fit.outcome(score_test=True)


def is_finished(line: Mapping[str, Any]) -> bool:
    """Whether a reported line is a run's last: it came to the end of its own plan."""
    return bool(line.get("finished"))


class _Fit:
    def __init__(self, config: RunConfig, data: Dataset, worker: Worker) -> None:
        self.config = config
        self.data = data
        self.worker = worker
        self.train_windows = data.splits["train"]
        self.model = build_model(config.model, vocabulary=len(data.tokenizer), seed=config.seed).to(
            worker.device
        )
        self.precision = resolve_precision(config.fit.precision, worker.device)
        self.stepper = self._build_stepper()
        self.progress = Progress()
        self.best: State | None = None
        self._stage: Stage | None = None
        self._wrapped: torch.nn.Module = self.model
        self.total_steps = config.fit.epochs * math.ceil(
            len(self.train_windows) / config.fit.step_size
        )

    def _build_stepper(self) -> Stepper:
        labels = torch.from_numpy(self.train_windows.labels).float()
        pos_weight = positive_weights(self.config.loss, labels.mean(0))
        if pos_weight is not None:
            pos_weight = pos_weight.to(self.worker.device)
        return Stepper(
            build_optimizer(self.model, self.config.optim),
            build_loss(self.config.loss, pos_weight),
            self.precision,
            self.worker.device,
            clip_norm=self.config.optim.clip_norm,
            pad_id=self.data.tokenizer.pad_token_id,
        )

    def train(self) -> None:
        while self.progress.epoch < self.config.fit.epochs and not self.progress.stopped:
            self._train_epoch()
            self._finish_epoch()

    def outcome(self, *, score_test: bool) -> Outcome:
        if self.best is not None:
            self.model.load_state_dict(self.best)
        val, test = self._read("val"), torch.zeros(0, len(DIMENSIONS))
        scores: Scores = {}
        if score_test:
            test = self._read("test")
            scores = self._scores("test", test)
        return Outcome(
            self.model.eval(), self.progress, self.progress.best_scores, scores, val, test
        )

    def _train_epoch(self) -> None:
        config, progress = self.config, self.progress
        model = self._prepared(stage_of(config.model.trainable, progress.epoch))
        steps = plan_epoch(
            self.train_windows.lengths,
            config.fit.step_size,
            seed=config.seed,
            epoch=progress.epoch,
        )
        started, sums = time.monotonic(), torch.zeros(5, device=self.worker.device)
        for step in steps[progress.epoch_step :]:
            sums += self._step(model, step)
            due = config.fit.checkpoint_steps and progress.step % config.fit.checkpoint_steps == 0
            ends = progress.epoch_step == len(steps)
            if due or ends or progress.step % _LOOK_STEPS == 0:
                self._look(sums)
                sums.zero_()
                progress.seconds += time.monotonic() - started
                started = time.monotonic()
            if due and not ends:
                self._report(None)
                model.train()

    def _prepared(self, stage: Stage) -> torch.nn.Module:
        if self._stage != stage:
            set_trainable(self.model, stage)
            self._wrapped, self._stage = self.worker.prepare(self.model), stage
        return self._wrapped.train()

    def _step(self, model: torch.nn.Module, step: Indices) -> Tensor:
        config, progress, worker = self.config, self.progress, self.worker
        share = share_of(
            step,
            rank=worker.rank,
            world_size=worker.world_size,
            batch_size=config.fit.batch_size,
        )
        rate = warmup_decay(progress.step, warmup=config.optim.warmup_steps, total=self.total_steps)
        set_rate(self.stepper.optimizer, rate)
        seed_step(config.seed, progress.step, worker.rank)
        sums = self.stepper.step(model, self.train_windows, share, worker.world_size)
        progress.skipped += self.stepper.skipped
        progress.step += 1
        progress.epoch_step += 1
        progress.windows += len(step)
        return sums

    def _look(self, sums: Tensor) -> None:
        """Add up the loss over the ranks; all of them see the same sum and stop together."""
        new = self.worker.reduce(sums.double().cpu()).tolist()
        self.progress.sums = [a + b for a, b in zip(self.progress.sums, new, strict=True)]
        loss = self.progress.sums[0] / self.progress.windows
        if not math.isfinite(loss):
            raise RunError(
                f"training diverged: the loss is {loss} near step {self.progress.step} of epoch "
                f"{self.progress.epoch + 1}; try a lower optim.lr (now {self.config.optim.lr}), "
                "more optim.warmup_steps, or fit.precision=32"
            )
        if self.worker.rank == 0:
            note = f"epoch {self.progress.epoch + 1} loss {loss:.4f}"
            self.worker.progress(self.progress.step, self.total_steps, note)

    def _finish_epoch(self) -> None:
        progress = self.progress
        scores = self._scores("val", self._read("val"))
        line = self._line(scores)
        value = scores[self.config.fit.monitor]
        progress.history.append(line)
        progress.epoch += 1
        progress.epoch_step, progress.sums, progress.windows = 0, [0.0] * 5, 0
        if self._is_better(value):
            progress.best, progress.best_epoch, progress.stale = value, progress.epoch, 0
            progress.best_scores = scores
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        else:
            progress.stale += 1
        progress.stopped = self._decide_to_stop()
        ended = progress.stopped or progress.epoch == self.config.fit.epochs
        self._report({**line, "best_epoch": progress.best_epoch, "finished": ended})

    def _is_better(self, value: float) -> bool:
        best = self.progress.best
        if best is None:
            return True
        return value < best if self.config.fit.monitor_mode == "min" else value > best

    def _decide_to_stop(self) -> bool:
        """Rank 0 decides; the others add nothing to its vote and obey the sum."""
        patience = self.config.fit.patience
        wish = patience is not None and self.progress.stale >= patience
        vote = torch.tensor(float(wish and self.worker.rank == 0), dtype=torch.float64)
        return bool(self.worker.reduce(vote) > 0)

    def _scores(self, split: str, logits: Tensor) -> Scores:
        return Counts.of(logits, torch.from_numpy(self.data.splits[split].labels)).scores()

    def _read(self, split: str) -> Tensor:
        return read_rows(
            self.model,
            self.data.splits[split],
            self.worker,
            self.precision,
            batch_tokens=self.config.fit.batch_size * self.config.model.max_tokens,
            pad_id=self.data.tokenizer.pad_token_id,
        )

    def _line(self, scores: Scores) -> dict[str, Any]:
        progress = self.progress
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": self._train_scores(),
            "seconds": round(progress.seconds, 3),
            "skipped_steps": progress.skipped,
            "val": scores,
        }

    def _train_scores(self) -> Scores:
        """Running means over the epoch's windows, with dropout on and the weights changing."""
        loss, *right = (value / self.progress.windows for value in self.progress.sums)
        accuracies = {f"acc_{d.key}": r for d, r in zip(DIMENSIONS, right, strict=True)}
        return {"loss": loss, **accuracies, "acc_mean": sum(right) / len(right)}

    def _report(self, line: dict[str, Any] | None) -> None:
        if self.worker.rank != 0:
            self.worker.report(line, None)
            return
        with tempfile.TemporaryDirectory(prefix="mbti-ray-") as aside:
            folder = Path(aside) / f"step-{self.progress.step:07d}"
            self._save(folder)
            self.worker.report(line, folder)

    def _save(self, folder: Path) -> None:
        now_is_best = self.progress.epoch_step == 0 and self.progress.stale == 0
        checkpoint = Checkpoint(
            model=self.model.state_dict(),
            best=None if now_is_best else self.best,
            optimizer={
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
            },
            progress=replace(self.progress),
        )
        save_checkpoint(folder, checkpoint)

    def restore(self, folder: Path | None) -> None:
        if folder is None:
            return
        checkpoint = load_checkpoint(folder)
        self.model.load_state_dict(checkpoint.model)
        self.stepper.optimizer.load_state_dict(checkpoint.optimizer["optimizer"])  # type: ignore[arg-type]
        self.stepper.scaler.load_state_dict(checkpoint.optimizer["scaler"])  # type: ignore[arg-type]
        self.progress = checkpoint.progress
        self.best = checkpoint.best
        if self.best is None and self.progress.best is not None:
            self.best = checkpoint.model
