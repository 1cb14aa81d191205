"""The training loop. There is one: alone, distributed, and inside a trial it is this.

It knows a config, a dataset and a worker. Where reports and checkpoints go, and how many ranks
there are, is the worker's business.
"""

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batch_sampler import Indices, plan_epoch
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.checkpoint import (
    Checkpoint,
    Progress,
    State,
    load_checkpoint,
    save_checkpoint,
)
from mbti_ray.engine.dataloader import Portion
from mbti_ray.engine.epoch_stats import Tally
from mbti_ray.engine.inputs import build_inputs
from mbti_ray.engine.optimizer import build_optimizer, load_moments, set_rate, warmup_decay
from mbti_ray.engine.precision import resolve_precision
from mbti_ray.engine.step import Stepper, seed_step
from mbti_ray.engine.throughput import Meter
from mbti_ray.engine.trackers import NO_TRACKER, Trace, Tracker, build_tracker, figures_of, tracing
from mbti_ray.engine.worker import Request, Worker
from mbti_ray.errors import RunError, StoppedError
from mbti_ray.model.classifier import (
    MBTIModel,
    Stage,
    build_model,
    recompute_activations,
    set_trainable,
    stage_of,
)
from mbti_ray.model.loss import build_loss, positive_weights
from mbti_ray.scores.metrics import Scores, score_rows
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
        val_logits: Row logits [R, 4] of the validation split under those weights, on the CPU;
            none where the test split was left alone.
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
    fit.restore(worker.checkpoints())
    fit.tracker = build_tracker(config, worker, first_step=fit.progress.step)
    worker.rewind(fit.progress.step)
    fit.train()
    return fit.outcome(score_test=score_test)


def rescore(config: RunConfig, data: Dataset, worker: Worker, checkpoint: Path) -> Outcome:
    """The outcome of a run that has ended, or was stopped, from its last checkpoint."""
    fit = _Fit(config, data, worker)
    fit.restore([checkpoint])
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
        if config.fit.gradient_checkpointing:
            recompute_activations(self.model)
        self.precision = resolve_precision(config.fit.precision, worker.device)
        self.inputs = build_inputs(config, data, worker, self.model, self.precision)
        self.meter = Meter(worker.device, worker.world_size)
        self.stepper = self._build_stepper()
        self.progress = Progress()
        self._tally = Tally(config, data, worker, self.progress, self.meter)
        self.best: State | None = None
        self.tracker: Tracker = NO_TRACKER
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
            meter=self.meter,
            skips_nonfinite=self.config.fit.skip_nonfinite > 0,
        )

    def train(self) -> None:
        with tracing(self.config, self.worker) as trace:
            while self.progress.epoch < self.config.fit.epochs and not self.progress.stopped:
                self._train_epoch(trace)
                self._finish_epoch()

    def outcome(self, *, score_test: bool) -> Outcome:
        if self.best is not None:
            self.model.load_state_dict(self.best)
        model, progress = self.model.eval(), self.progress
        if not score_test:
            # A trial's reports have said all; reading the splits again would only cost time.
            none = torch.zeros(0, len(DIMENSIONS))
            return Outcome(model, progress, progress.best_scores, {}, none, none)
        val, test = self.inputs.read("val"), self.inputs.read("test")
        scores = self._scores("test", test)
        return Outcome(model, progress, progress.best_scores, scores, val, test)

    def _train_epoch(self, trace: Trace | None) -> None:
        config, progress = self.config, self.progress
        model = self._prepared(stage_of(config.model.trainable, progress.epoch))
        steps = plan_epoch(
            self.train_windows.lengths,
            config.fit.step_size,
            seed=config.seed,
            epoch=progress.epoch,
        )
        rest = steps[progress.epoch_step :]
        tally = self._tally = Tally(config, self.data, self.worker, progress, self.meter)
        for step, portion in zip(rest, self.meter.timed(self.inputs.portions(rest)), strict=True):
            tally.add(step, self._step(model, step, portion))
            if trace is not None:
                trace.step()
            due = config.fit.checkpoint_steps and progress.step % config.fit.checkpoint_steps == 0
            ends = progress.epoch_step == len(steps)
            if due or ends or progress.step % _LOOK_STEPS == 0:
                request = tally.look(self.total_steps)
                if (due or request) and not ends:
                    self._report(None, wait=request is not None)
                    model.train()
                    tally.restart_clock()
                if request == Request.STOP and not ends:
                    raise StoppedError(
                        f"stopped as asked after step {progress.step} of {self.total_steps}; its "
                        "checkpoint is saved, --resume goes on"
                    )

    def _prepared(self, stage: Stage) -> torch.nn.Module:
        if self._stage != stage:
            set_trainable(self.model, stage)
            self._wrapped, self._stage = self.worker.prepare(self.inputs.module), stage
        return self._wrapped.train()

    def _step(self, model: torch.nn.Module, step: Indices, portion: Portion) -> Tensor:
        config, progress, worker = self.config, self.progress, self.worker
        rate = warmup_decay(progress.step, warmup=config.optim.warmup_steps, total=self.total_steps)
        set_rate(self.stepper.optimizer, rate)
        reseed = partial(seed_step, config.seed, progress.step, worker.rank)
        sums = self.stepper.step(model, portion, worker.world_size, reseed)
        progress.skipped += self.stepper.skipped
        progress.step += 1
        progress.epoch_step += 1
        self.meter.count(portion)
        return sums

    def _finish_epoch(self) -> None:
        progress = self.progress
        scores = self._scores("val", self.inputs.read("val"))
        line = self._line(scores)
        value = scores[self.config.fit.monitor]
        progress.history.append(line)
        self.tracker.show(progress.step, figures_of(line))
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
        end = {"best": progress.best, "best_epoch": progress.best_epoch, "finished": ended}
        self._report({**line, **end}, wait=ended)

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
        return score_rows(logits, torch.from_numpy(self.data.splits[split].labels))

    def _line(self, scores: Scores) -> dict[str, Any]:
        progress = self.progress
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train": self._tally.scores(),
            "seconds": round(progress.seconds, 3),
            "skipped_steps": progress.skipped,
            "nonfinite_steps": progress.nonfinite,
            "speed": self._tally.speed(),
            "val": scores,
        }

    def _report(self, line: dict[str, Any] | None, *, wait: bool) -> None:
        if self.worker.rank != 0:
            self.worker.report(line, None, wait=wait)
            return
        folder = Path(tempfile.mkdtemp(prefix=f"step-{self.progress.step:07d}-"))
        try:
            self._save(folder)
            self.worker.report(line, folder, wait=wait)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"the checkpoint of step {self.progress.step} could not be kept "
                f"({error.strerror or error}); make room or mend the storage, and go on with "
                "--resume"
            ) from None

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

    def restore(self, folders: Sequence[Path]) -> None:
        """Go on from the first of the checkpoints, newest first, that is not damaged."""
        for place, folder in enumerate(folders):
            try:
                checkpoint = load_checkpoint(folder)
            except RunError as error:
                if place == len(folders) - 1:
                    raise
                self.worker.note(f"{error.args[0].partition(';')[0]}; going on from the one before")
                continue
            self._set(checkpoint)
            return

    def _set(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        load_moments(self.stepper.optimizer, checkpoint.optimizer["optimizer"])  # type: ignore[arg-type]
        self.stepper.scaler.load_state_dict(checkpoint.optimizer["scaler"])  # type: ignore[arg-type]
        self.progress = checkpoint.progress
        self.best = checkpoint.best
        if self.best is None and self.progress.best is not None:
            self.best = checkpoint.model
