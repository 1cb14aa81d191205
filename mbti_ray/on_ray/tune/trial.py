"""What runs in a trial: the engine's loop, inside the Tune actor or through a TorchTrainer.

An actor is reused for the next trial, with its imports, the dataset and the encoder's weights.
Must not know how trials are suggested or recorded.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mbti_ray.config import RunConfig, override
from mbti_ray.config.schema import Monitor, mode_of
from mbti_ray.engine.loop import run
from mbti_ray.engine.metrics_record import MetricsRecord
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import MbtiRayError, StorageError, one_line
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.shared_dataset import SharedDataset
from mbti_ray.on_ray.train.metrics import EpochLogger, flat_report
from mbti_ray.on_ray.train.remote_checkpoints import outlast, stored_checkpoints
from mbti_ray.on_ray.train.trainer import train
from mbti_ray.on_ray.train.worker import silence_ray
from mbti_ray.runs.run_folder import open_run
from mbti_ray.storage.remote import Location

# Of the function that waits for a TorchTrainer. With a share of a CPU, the last worker of a cluster
# that is just large enough would wait for a whole one; and Tune takes no request for nothing.
_DRIVER_RESOURCES = {"memory": 1}


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a study share.

    Attributes:
        base: The run config that each starts from.
        data: Where the dataset is, or that of each fold.
        trials: Where the trial folders are.
        resources: Of one worker.
        seeds: How many seeds a trial is trained with, on each fold.
    """

    base: RunConfig
    data: Sequence[SharedDataset]
    trials: Location
    resources: Resources
    objectives: tuple[Monitor, ...]
    seeds: int

    def name_of(self, trial: str) -> str:
        """The name of a trial in the dashboard, unique among the studies of a cluster."""
        return f"{self.trials.parent.name}/{self.trials.name}/{trial}"

    def run_configs(self, params: Mapping[str, Any]) -> list[tuple[RunConfig, SharedDataset]]:
        """The config and data of each run of a trial: one for each seed and fold."""
        runs = []
        for seed, (number, data) in product(range(self.seeds), enumerate(self.data, 1)):
            fold = {"data.fold": number} if len(self.data) > 1 else {}
            values = {**params, "seed": self.base.seed + seed, **fold}
            runs.append((override(self.base, values), data))
        return runs


class TrialWorker(Worker):
    """The only rank of a trial that trains inside its Tune actor."""

    def __init__(self, setup: TrialSetup, name: str, *, is_last: bool) -> None:
        super().__init__(device=setup.resources.device)
        self._trials = setup.trials
        self._logger = EpochLogger(name)
        self._is_last = is_last

    def report(
        self, record: MetricsRecord | None, checkpoint: Path | None, *, wait: bool = True
    ) -> None:
        # Tune counts reports as epochs, so a trial saves at the end of epochs only.
        if record is not None:
            saved = tune.Checkpoint.from_directory(checkpoint) if checkpoint else None
            self._logger.log(record)
            ended = record["finished"] and self._is_last
            report = {**flat_report(record), "finished": ended}
            outlast(lambda: tune.report(report, checkpoint=saved), self._trials)
        if checkpoint is not None:
            shutil.rmtree(checkpoint)

    def checkpoints(self) -> Iterable[Path]:
        return stored_checkpoints(tune.get_checkpoint(), self._trials)


class _EpochReports(TuneReportCallback):  # type: ignore[misc]
    """What a TorchTrainer reports, as reports of the trial around it."""

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        # Tune ends the whole study at a report without the objective, as that of a checkpoint is.
        if metrics[0]:
            super().after_report(run_context, metrics, checkpoint)


def build_trainable(setup: TrialSetup, *, workers: int) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls with the params of a trial."""
    body = _train_in_actor if workers == 1 else _train_on_workers
    function = partial(_trial, setup=setup, body=body)
    # The actors have this name in the dashboard.
    function.__name__ = setup.trials.parent.name  # type: ignore[attr-defined]
    takes = setup.resources.as_dict() if workers == 1 else _DRIVER_RESOURCES
    return tune.with_resources(function, takes)  # type: ignore[no-any-return]


def _trial(params: dict[str, Any], *, setup: TrialSetup, body: Callable[..., None]) -> None:
    try:
        body(params, setup, tune.get_context().get_trial_name())
    except Exception as error:
        # A scheduler compares the worst possible value, the searcher records the failure. Raised,
        # Tune would retry what fails again; retries are for trials whose process is lost.
        reason = one_line(error, limit=500)
        if not isinstance(error, MbtiRayError):
            reason = f"{type(error).__name__}: {reason}"
        objective = setup.objectives[0]
        worst = float("inf") if mode_of(objective) == "min" else float("-inf")
        is_lost = isinstance(error, StorageError)
        tune.report({"epoch": 0, objective: worst, "failed": reason, "storage_lost": is_lost})


def _train_in_actor(params: dict[str, Any], setup: TrialSetup, trial: str) -> None:
    """Train with each seed on each fold; the scheduler sees the first, the study the mean."""
    torch.set_num_threads(setup.resources.cpus)
    silence_ray()
    start_malloc_trim_thread()
    if setup.resources.device == "cuda":
        # Cached memory counts, so a trial on a share of a GPU leaves its neighbor the rest.
        torch.cuda.set_per_process_memory_fraction(min(setup.resources.gpus, 1.0))
    name = setup.name_of(trial)
    # For the actor's log in the dashboard: one actor trains one trial after the other.
    print(f"{name} {json.dumps(params)}", flush=True)
    (config, shared), *others = setup.run_configs(params)
    worker: Worker = TrialWorker(setup, name, is_last=not others)
    progress = run(config, shared.load(), worker, score_test=False).progress
    if not others:
        return
    scores, seconds = [progress.best_scores], progress.seconds
    for config, shared in others:
        worker = Worker(device=setup.resources.device)
        other = run(config, shared.load(), worker, score_test=False).progress
        scores.append(other.best_scores)
        seconds += other.seconds
    seed_scores = [[s[objective] for objective in setup.objectives] for s in scores]
    tune.report(
        {
            # After all epochs, so that no scheduler stops it here for having reached the last one.
            "epoch": progress.epoch + 1,
            "seconds": round(seconds, 3),
            setup.objectives[0]: fmean(s[0] for s in seed_scores),
            "finished": True,
            "seeds": seed_scores,
        }
    )


def _train_on_workers(params: dict[str, Any], setup: TrialSetup, trial: str) -> None:
    ((config, shared),) = setup.run_configs(params)
    with open_run(setup.trials / trial) as folder:
        train(
            config,
            shared.load(),
            folder,
            setup.resources,
            name=setup.name_of(trial),
            callbacks=[_EpochReports()],
        )
