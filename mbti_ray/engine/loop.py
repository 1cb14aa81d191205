"""The training loop, used alike by a single process, by several ranks and inside a trial.

It knows a config, a dataset and a worker. Where reports and checkpoints go, and how many ranks
there are, is the worker's business.
"""

import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import shorten_rows
from mbti_ray.engine.checkpoint import (
    Checkpoint,
    Progress,
    StateDict,
    load_checkpoint,
    save_checkpoint,
)
from mbti_ray.engine.dataloader import StepBatches
from mbti_ray.engine.epoch_stats import EpochStats
from mbti_ray.engine.inputs import Inputs
from mbti_ray.engine.lr_scheduler import linear_warmup_decay, set_lr
from mbti_ray.engine.metrics_record import MetricsRecord, flatten_metrics
from mbti_ray.engine.optimizer import build_optimizer, load_moments
from mbti_ray.engine.precision import dtype_of, resolve_precision
from mbti_ray.engine.step import Stepper, seed_step
from mbti_ray.engine.throughput import ThroughputTimer
from mbti_ray.engine.trackers import Profiler, Tracker, build_tracker, profiling
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import RunError, StoppedError, StorageError
from mbti_ray.model.classifier import (
    MBTIModel,
    build_model,
    enable_gradient_checkpointing,
    stage_of_epoch,
    to_device,
    trained_weights,
)
from mbti_ray.model.loss import build_loss, positive_weights
from mbti_ray.scores.metrics import Scores, score_rows
from mbti_ray.storage.atomic import storage_errors
from mbti_ray.typology import DIMENSIONS

# Steps between two syncs of the epoch's statistics: each one waits for the device.
_SYNC_STEPS = 20


@dataclass(frozen=True)
class Outcome:
    """What a finished run returns.

    Where the test split is not scored, `val` is that of the best evaluation; the rest is empty.

    Attributes:
        model: With the weights of the best evaluation, in evaluation mode, on the device.
        val: Scores with those weights, computed in float32 as in serving; `test` alike.
        val_logits: Row logits [R, 4] behind them, on the CPU; `test_logits` alike.
        short_logits: Those of the beginnings of rows of val; see `shorten_rows`.
    """

    model: MBTIModel
    progress: Progress
    val: Scores
    test: Scores
    val_logits: Tensor
    test_logits: Tensor
    short_logits: Tensor


def run(
    config: RunConfig,
    data: Dataset,
    worker: Worker,
    *,
    score_test: bool = True,
    keeps_last_epoch: bool = False,
) -> Outcome:
    """Train to the last epoch or to early stopping, then score the test split.

    Resumes from the worker's latest checkpoint where there is one.

    Args:
        score_test: False leaves the test split unread, as a trial has to.
        keeps_last_epoch: The weights are those of the last epoch, not of the best one: where the
            validation rows must not select any.

    Raises:
        RunError: The loss is not finite, or every checkpoint is damaged.
    """
    loop = _TrainingLoop(config, data, worker)
    loop.keeps_last_epoch = keeps_last_epoch
    loop.restore(worker.checkpoints())
    loop.tracker = build_tracker(config, worker, first_step=loop.progress.step)
    worker.truncate_metrics_after(loop.progress.step)
    loop.train()
    return loop.outcome(score_test=score_test)


def rescore(
    config: RunConfig, data: Dataset, worker: Worker, checkpoints: Iterable[Path]
) -> Outcome:
    """The outcome of a run that has ended, or was stopped, from its newest whole checkpoint."""
    loop = _TrainingLoop(config, data, worker)
    loop.restore(checkpoints)
    return loop.outcome(score_test=True)


class _TrainingLoop:
    def __init__(self, config: RunConfig, data: Dataset, worker: Worker) -> None:
        self.config, self.data, self.worker = config, data, worker
        self.keeps_last_epoch = False
        model = build_model(config.model, vocabulary=len(data.tokenizer), seed=config.seed)
        self.model = to_device(model, worker.device)
        if config.fit.gradient_checkpointing:
            enable_gradient_checkpointing(self.model)
        shape: Any = self.model.encoder.config
        self.precision = resolve_precision(
            config.fit.precision, worker, hidden_size=shape.hidden_size
        )
        self.dtype = dtype_of(self.precision)
        self.inputs = Inputs(config, data, worker, self.model, self.dtype)
        self.instances = self.inputs.instances
        self.timer = ThroughputTimer(worker.device, worker.world_size)
        self.stepper = self._build_stepper()
        self.progress = Progress(precision=self.precision, epochs=config.fit.epochs)
        self._trains_encoder = config.model.trainable != "heads"
        self._weights = partial(trained_weights, self.model, config.model.trainable)
        if not self._trains_encoder:
            self.progress.encoder = self.inputs.frozen.encoder_key
        self.best: StateDict | None = None
        self.tracker: Tracker | None = None
        self._is_asked_to_stop = False
        epoch_steps = math.ceil(len(self.instances) / config.fit.step_size)
        self.total_steps = config.fit.epochs * epoch_steps

    def _build_stepper(self) -> Stepper:
        shares = torch.from_numpy(self.instances.targets).mean(0)
        pos_weight = positive_weights(self.config.loss, shares)
        if pos_weight is not None:
            pos_weight = pos_weight.to(self.worker.device)
        optim = self.config.optim.model_copy(update={"head_lr": self.config.head_lr})
        return Stepper(
            build_optimizer(self.model, optim),
            build_loss(self.config.loss, pos_weight),
            self.dtype,
            self.worker.device,
            clip_norm=self.config.optim.clip_norm,
            timer=self.timer,
            skips_nonfinite=self.config.fit.skip_nonfinite > 0,
        )

    def train(self) -> None:
        with profiling(self.config, self.worker) as profiler:
            while self.progress.epoch < self.config.fit.epochs and not self.progress.stopped:
                self._finish_epoch(self._train_epoch(profiler))
        if self.inputs.graphs:
            self.worker.note(f"torch.compile made {self.inputs.graphs} graphs")

    def outcome(self, *, score_test: bool) -> Outcome:
        if self.best is not None:
            self.model.load_state_dict(self.best, strict=self._trains_encoder)
        model, progress = self.model.eval(), self.progress
        if not score_test:
            # A trial has reported its scores; another pass over the splits would only cost time.
            empty = torch.zeros(0, len(DIMENSIONS))
            return Outcome(model, progress, progress.best_scores, {}, empty, empty, empty)
        val, test = (self.inputs.predict(split, as_served=True) for split in ("val", "test"))
        scores = self._scores("val", val), self._scores("test", test)
        short = self.inputs.predict_windows(shorten_rows(self.data.splits["val"]))
        return Outcome(model, progress, *scores, val, test, short)

    def _train_epoch(self, profiler: Profiler | None) -> EpochStats:
        config, progress, worker = self.config, self.progress, self.worker
        steps = self.instances.steps(config.fit.step_size, epoch=progress.epoch)
        rest = steps[progress.epoch_step :]
        stats = EpochStats(config, self.data, self.instances, worker, progress, self.timer)
        batches = self.inputs.train_batches(rest, epoch=progress.epoch)
        # After features were extracted, which leaves the model in evaluation mode.
        model = self.inputs.prepare(stage_of_epoch(config.model.trainable, progress.epoch))
        loaded = self.timer.time_loading(batches)
        for indices, step in zip(rest, loaded, strict=True):
            stats.add(indices, self._step(model, step))
            if profiler is not None:
                profiler.step()
            every = config.fit.checkpoint_steps
            is_due = every is not None and progress.step % every == 0
            is_last = progress.epoch_step == len(steps)
            if is_due or is_last or progress.step % _SYNC_STEPS == 0:
                interruption = stats.sync(self.total_steps)
                # After the last step of an epoch it stops once that one is scored.
                self._is_asked_to_stop = interruption == Interruption.STOP
                if (is_due or interruption) and not is_last:
                    self._report(None, wait=interruption is not None)
                    model.train()
                    stats.restart_clock()
                if self._is_asked_to_stop and not is_last:
                    raise self._stopped()
        return stats

    def _stopped(self) -> StoppedError:
        return StoppedError(
            f"stopped as requested after step {self.progress.step} of {self.total_steps}; "
            "its checkpoint is saved, --resume continues from it"
        )

    def _step(self, model: torch.nn.Module, step: StepBatches) -> Tensor:
        config, progress, worker = self.config, self.progress, self.worker
        factor = linear_warmup_decay(
            progress.step,
            warmup_steps=config.optim.warmup_of(self.total_steps),
            total_steps=self.total_steps,
        )
        set_lr(self.stepper.optimizer, factor)
        seed = partial(seed_step, config.seed, progress.step, worker.rank)
        sums = self.stepper.step(model, step, worker.world_size, seed)
        progress.step += 1
        progress.epoch_step += 1
        self.timer.count(step)
        return sums

    def _finish_epoch(self, stats: EpochStats) -> None:
        progress = self.progress
        scores = self._scores("val", self.inputs.predict("val"))
        train, speed = stats.scores(), stats.speed()
        progress.epoch += 1
        progress.epoch_step, progress.sums, progress.windows = 0, [0.0] * 5, 0
        self._update_best(scores)
        progress.stopped = self._early_stopping()
        record = MetricsRecord(
            epoch=progress.epoch,
            step=progress.step,
            train=train,
            seconds=round(progress.seconds, 3),
            skipped_steps=progress.skipped,
            nonfinite_steps=progress.nonfinite,
            speed=speed,
            val=scores,
            best=progress.best_scores[self.config.fit.monitor],
            best_epoch=progress.best_epoch,
            finished=progress.stopped or progress.epoch == self.config.fit.epochs,
        )
        progress.history.append(record)
        if self.tracker is not None:
            self.tracker.log_metrics(progress.step, flatten_metrics(record))
        stops = self._is_asked_to_stop and not record["finished"]
        self._report(record, wait=stops or record["finished"])
        if stops:
            raise self._stopped()

    def _update_best(self, scores: Scores) -> None:
        progress, value = self.progress, scores[self.config.fit.monitor]
        sign = -1 if self.config.fit.monitor_mode == "min" else 1
        best = math.nan if progress.best is None else progress.best
        # Anything is better than a loss that is not a number.
        is_better = math.isnan(best) or sign * value > sign * best
        if not is_better and not self.keeps_last_epoch:
            progress.epochs_without_improvement += 1
            return
        progress.best, progress.best_epoch, progress.best_scores = value, progress.epoch, scores
        progress.epochs_without_improvement = 0
        self.best = {k: v.detach().cpu().clone() for k, v in self._weights().items()}

    def _early_stopping(self) -> bool:
        """Rank 0 decides, so that all ranks stop after the same epoch."""
        patience = self.config.fit.patience
        stops = patience is not None and self.progress.epochs_without_improvement >= patience
        vote = torch.tensor(float(stops and self.worker.rank == 0), dtype=torch.float64)
        return bool(self.worker.all_reduce(vote) > 0)

    def _scores(self, split: str, logits: Tensor) -> Scores:
        rows = self.data.splits[split]
        labels, shares = torch.from_numpy(rows.labels), torch.from_numpy(rows.shares)
        return score_rows(logits, labels, shares=shares)

    def _report(self, record: MetricsRecord | None, *, wait: bool) -> None:
        if self.worker.rank != 0:
            self.worker.report(record, None, wait=wait)
            return
        folder = Path(tempfile.mkdtemp(prefix=f"step-{self.progress.step:07d}-"))
        try:
            with storage_errors(folder):
                self._save(folder)
            self.worker.report(record, folder, wait=wait)
        except (OSError, StorageError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StorageError(
                f"the checkpoint of step {self.progress.step} could not be saved "
                f"({getattr(error, 'strerror', None) or error}); free some space or fix the "
                "storage, then resume with --resume"
            ) from None

    def _save(self, folder: Path) -> None:
        progress = self.progress
        checkpoint = Checkpoint(
            model=self._weights(),
            best=None if progress.is_best else self.best,
            optimizer={
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": self.stepper.scaler.state_dict(),
            },
            progress=progress,
        )
        save_checkpoint(folder, checkpoint)

    def restore(self, folders: Iterable[Path]) -> None:
        """Resume from the first of the checkpoints, newest first, that is not damaged."""
        damage: RunError | None = None
        for folder in folders:
            if damage is not None:
                text = damage.args[0].partition(";")[0]
                self.worker.note(f"{text}; resuming from the one before it")
            try:
                return self._set(load_checkpoint(folder))
            except RunError as error:
                damage = error
        if damage is not None:
            raise damage

    def _set(self, checkpoint: Checkpoint) -> None:
        if checkpoint.progress.encoder not in ("", self.progress.encoder):
            raise RunError(
                f"model.encoder={self.config.model.encoder}: its weights have changed since the "
                "run began; put them back, or start again with --fresh"
            )
        self.model.load_state_dict(checkpoint.model, strict=self._trains_encoder)
        load_moments(self.stepper.optimizer, checkpoint.optimizer["optimizer"])
        # Empty unless the checkpoint was written in float16; ignored unless this run is in it.
        if scaler := checkpoint.optimizer["scaler"]:
            self.stepper.scaler.load_state_dict(scaler)
        self.progress = checkpoint.progress
        planned, self.progress.epochs = self.progress.epochs, self.config.fit.epochs
        if self.progress.stopped and planned is not None and planned < self.config.fit.epochs:
            self.progress.stopped, self.progress.epochs_without_improvement = False, 0
        before, self.progress.precision = self.progress.precision, self.precision
        if before != self.precision:
            self.worker.note(f"resumed in precision {self.precision}, after training in {before}")
        self.best = checkpoint.best
        if self.best is None and self.progress.best is not None:
            self.best = checkpoint.model
