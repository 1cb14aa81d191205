"""What runs in a trial: the engine's loop, inside the Tune actor or through a TorchTrainer.

An actor is kept for the next trial, with its imports, the dataset and the encoder's weights.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mbti_ray.config import RunConfig, config_from_dict, override
from mbti_ray.config.schema import Monitor, mode_of
from mbti_ray.engine.loop import run
from mbti_ray.engine.metrics_record import MetricsRecord
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import MbtiRayError, one_line
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.report import Report
from mbti_ray.on_ray.train.metrics import RunGauges
from mbti_ray.on_ray.train.remote_checkpoints import download_each
from mbti_ray.on_ray.train.trainer import train
from mbti_ray.on_ray.train.worker import log_epoch, silence_ray
from mbti_ray.on_ray.tune.optuna_searcher import FAILED, SEEDS
from mbti_ray.runs.run_folder import open_run
from mbti_ray.storage.remote import Location

# What the function takes that builds a TorchTrainer and waits for it. A share of a CPU, however
# small, would leave the last worker of a cluster that is just large enough without a whole one, for
# ever; nothing at all is not a request that Tune makes.
_DRIVER = {"memory": 1}

Trainable = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What all trials of a study share.

    Attributes:
        base: The run config that each starts from, in its plain form.
        data: Reference to the dataset in the object store.
        trials: Where the trials are kept, each in a folder of its name.
        resources: Of one worker.
        objectives: What is sought.
        seeds: How often a trial is trained.
    """

    base: Mapping[str, Any]
    data: Any
    trials: Location
    resources: Resources
    objectives: tuple[Monitor, ...]
    seeds: int

    @property
    def study(self) -> str:
        """What people find the study by."""
        return self.trials.parent.name

    def name_of(self, trial: str) -> str:
        """What people find a trial by, whatever other studies the cluster has."""
        return f"{self.study}/{self.trials.name}/{trial}"

    def config(self, values: Mapping[str, Any], *, place: int = 0) -> RunConfig:
        """The run of a trial; `place` counts its seeds."""
        seed = self.base["seed"] + place
        return override(config_from_dict(self.base), {**values, "seed": seed})


class TrialWorker(Worker):
    """The only rank of a trial that trains inside its Tune actor."""

    def __init__(self, job: Job, name: str, *, is_last: bool) -> None:
        super().__init__(device=job.resources.device)
        self._trials = job.trials
        self._name = name
        self._gauges = RunGauges(name)
        self._is_last = is_last

    def report(
        self, record: MetricsRecord | None, checkpoint: Path | None, *, wait: bool = True
    ) -> None:
        # Tune counts reports as epochs; a trial saves at its epochs only.
        if record is not None:
            saved = tune.Checkpoint.from_directory(checkpoint) if checkpoint else None
            self._gauges.set(record)
            log_epoch(self._name, record)
            ended = record["finished"] and self._is_last
            report = replace(Report.of_epoch(record), finished=ended)
            tune.report(report.to_ray(), checkpoint=saved)
        if checkpoint is not None:
            shutil.rmtree(checkpoint)

    def checkpoints(self) -> Iterable[Path]:
        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            return []
        path = Path(checkpoint.path)
        if isinstance(self._trials, Path):
            return [path]
        return download_each([self._trials / path.parent.name / path.name])


def trainable(job: Job, *, workers: int) -> Trainable:
    """The function that Tune calls with the values of a trial."""
    function = partial(_trial if workers == 1 else _trial_of_several, job=job)
    # The actors bear it in the dashboard.
    function.__name__ = job.study  # type: ignore[attr-defined]
    takes = job.resources.as_dict() if workers == 1 else _DRIVER
    return tune.with_resources(function, takes)  # type: ignore[no-any-return]


def _trial(values: dict[str, Any], *, job: Job) -> None:
    torch.set_num_threads(job.resources.cpus)
    silence_ray()
    start_malloc_trim_thread()
    try:
        _train_seeds(values, job)
    except Exception as error:
        _report_failure(job, error)


def _train_seeds(values: dict[str, Any], job: Job) -> None:
    """Train with each seed; the scheduler sees the first, the study the mean of all."""
    data = ray.get(job.data)
    name = job.name_of(tune.get_context().get_trial_name())
    # In the actor's log, where the dashboard shows it: an actor trains one trial after the other.
    print(f"{name} {json.dumps(values)}", flush=True)
    worker = TrialWorker(job, name, is_last=job.seeds == 1)
    progress = run(job.config(values), data, worker, score_test=False).progress
    if job.seeds == 1:
        return
    scores, seconds = [progress.best_scores], progress.seconds
    for place in range(1, job.seeds):
        silent = Worker(device=job.resources.device)
        other = run(job.config(values, place=place), data, silent, score_test=False).progress
        scores.append(other.best_scores)
        seconds += other.seconds
    found = [[s[objective] for objective in job.objectives] for s in scores]
    tune.report(
        {
            job.objectives[0]: sum(s[0] for s in found) / job.seeds,
            # After all epochs: a scheduler may not stop it here for having come to the last.
            "epoch": progress.epoch + 1,
            "seconds": round(seconds, 3),
            "finished": True,
            SEEDS: found,
        }
    )


def _trial_of_several(values: dict[str, Any], *, job: Job) -> None:
    try:
        trial = tune.get_context().get_trial_name()
        with open_run(job.trials / trial) as folder:
            train(
                job.config(values),
                ray.get(job.data),
                folder,
                job.resources,
                name=job.name_of(trial),
                callbacks=[TuneReportCallback()],
            )
    except Exception as error:
        _report_failure(job, error)


def _report_failure(job: Job, error: Exception) -> None:
    # The worst value there is: a scheduler compares it, the searcher records a failure. Raised
    # instead, Tune would try again what fails again; it restarts trials whose process is lost.
    said = one_line(error)
    reason = said if isinstance(error, MbtiRayError) else f"{type(error).__name__}: {said}"
    objective = job.objectives[0]
    worst = float("inf") if mode_of(objective) == "min" else float("-inf")
    tune.report({objective: worst, "epoch": 0, "seconds": 0.0, FAILED: reason[:500]})
