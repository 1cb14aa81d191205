"""A study: Ray Tune runs trials, Optuna suggests them, ASHA stops the poor ones.

A trial of one worker trains inside the Tune actor, which is kept for the next trial with its
imports, the dataset and the encoder's weights; a trial of several workers builds a TorchTrainer.
Both run the one loop of `engine`.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from optuna.trial import TrialState
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from mbti_ray.config import RunConfig, StudyConfig, config_of, overridden
from mbti_ray.config.schema import IntRange
from mbti_ray.data.prepare import Dataset
from mbti_ray.engine.checkpoint import newest_checkpoint
from mbti_ray.engine.fit import rescore, run
from mbti_ray.engine.worker import Line, Worker
from mbti_ray.errors import MbtiRayError, RunError
from mbti_ray.finish import finish_run
from mbti_ray.on_ray.cluster import Resources
from mbti_ray.on_ray.searcher import (
    FAILED,
    StudySearcher,
    best_trial,
    best_value,
    open_study,
    trial_folder_name,
)
from mbti_ray.on_ray.training import flat, quiet_ray, train
from mbti_ray.runs import RunFolder
from mbti_ray.scores.study_diagnosis import StudyTrial, diagnose_study

_TRIALS = "trials"
# What the function takes that builds a TorchTrainer and waits for it. A share of a CPU, however
# small, would leave the last worker of a cluster that is just large enough without a whole one, for
# ever; nothing at all is not a request that Tune makes.
_DRIVER = {"memory": 1}

OnTrial = Callable[[optuna.trial.FrozenTrial], None]


class TrialWorker(Worker):
    """The only rank of a trial that trains inside its Tune actor."""

    def report(self, line: Line | None, checkpoint: Path | None, *, wait: bool = True) -> None:
        # Tune counts reports as epochs; a trial saves at its epochs only.
        if line is not None:
            saved = tune.Checkpoint.from_directory(checkpoint) if checkpoint else None
            tune.report(flat(line), checkpoint=saved)
        if checkpoint is not None:
            shutil.rmtree(checkpoint)

    def checkpoints(self) -> list[Path]:
        checkpoint = tune.get_checkpoint()
        return [Path(checkpoint.path)] if checkpoint else []


def search(
    config: StudyConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    *,
    at_once: int,
    on_trial: OnTrial | None = None,
) -> optuna.Study:
    """Run the trials that the study still lacks; its database is in the folder afterwards.

    Args:
        at_once: Trials that run side by side.
        on_trial: Called on the driver with each trial that has ended.
    """
    study = open_study(folder.path, config, name=folder.path.name)
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    missing = config.study.trials - len(ended)
    if missing <= 0:
        return study
    searcher = StudySearcher(study, config)
    tuner = tune.Tuner(
        _trainable(config, data, folder, resources),
        tune_config=tune.TuneConfig(
            metric=config.objective,
            mode="min" if config.objective == "loss" else "max",
            search_alg=searcher,
            scheduler=_scheduler(config),
            num_samples=missing,
            max_concurrent_trials=at_once,
            reuse_actors=config.scaling.most == 1,
            trial_name_creator=lambda trial: trial_folder_name(searcher.numbers[trial.trial_id]),
            trial_dirname_creator=lambda trial: trial_folder_name(searcher.numbers[trial.trial_id]),
        ),
        run_config=tune.RunConfig(
            name=_TRIALS,
            storage_path=str(folder.path),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            failure_config=tune.FailureConfig(max_failures=config.failure.max_failures),
            callbacks=[_Watcher(study, searcher, on_trial)] if on_trial else None,
            verbose=0,
        ),
    )
    tuner.fit()
    return study


def finish_study(
    config: StudyConfig, data: Dataset, study: optuna.Study, folder: RunFolder, resources: Resources
) -> RunConfig:
    """Score the best trial on the test split and write best/ and trials.parquet.

    Raises:
        RunError: No trial was evaluated; the message gives the first reason.
    """
    _write_trials(study, config, folder)
    best = best_trial(study)
    if best is None:
        reasons = [t.user_attrs.get("reason") for t in study.get_trials(deepcopy=False)]
        reason = next((r for r in reasons if r), "see the Ray logs")
        raise RunError(f"{folder.path}: no trial was evaluated; the first says: {reason}")
    run_config = overridden(_run_of(config), best.params)
    checkpoint = newest_checkpoint(folder.path / _TRIALS / best.user_attrs["folder"])
    if checkpoint is None:
        raise RunError(f"{folder.path}: the checkpoint of trial {best.number} is gone")
    # In a worker, because the driver's machine may have no GPU and little memory.
    task = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(_finish_best)
    ray.get(
        task.remote(
            run_config.model_dump(mode="json"),
            ray.put(data),
            checkpoint,
            folder.best.path,
            resources,
        )
    )
    return run_config


def findings_of(study: optuna.Study, config: StudyConfig) -> list[dict[str, Any]]:
    """What the trials of a study show of its search, as `scores.diagnosis` finds it."""
    trials = [
        StudyTrial(t.number, t.state.name, best_value(t, config.objective), t.params)
        for t in study.get_trials(deepcopy=False)
    ]
    return [finding.as_dict() for finding in diagnose_study(config, trials)]


def _finish_best(
    tree: dict[str, Any], data: Dataset, checkpoint: Path, best: Path, resources: Resources
) -> None:
    torch.set_num_threads(resources.cpus)
    config, folder = config_of(tree), RunFolder(best)
    worker = Worker(device=resources.device)
    folder.begin(config, "fresh")
    finish_run(config, data, rescore(config, data, worker, checkpoint), folder)


def _trainable(
    config: StudyConfig, data: Dataset, folder: RunFolder, resources: Resources
) -> Callable[[dict[str, Any]], None]:
    base = _run_of(config).model_dump(mode="json")
    reference = ray.put(data)
    if config.scaling.most == 1:
        return tune.with_resources(  # type: ignore[no-any-return]
            partial(_trial, base=base, data=reference, resources=resources), resources.as_dict()
        )
    several = partial(
        _trial_of_several, base=base, data=reference, study=folder.path, resources=resources
    )
    return tune.with_resources(several, _DRIVER)  # type: ignore[no-any-return]


def _trial(
    values: dict[str, Any], *, base: dict[str, Any], data: Any, resources: Resources
) -> None:
    torch.set_num_threads(resources.cpus)
    quiet_ray()
    try:
        config = overridden(config_of(base), values)
        worker = TrialWorker(device=resources.device)
        run(config, ray.get(data), worker, score_test=False)
    except MbtiRayError as error:
        _report_failure(base, error)


def _trial_of_several(
    values: dict[str, Any], *, base: dict[str, Any], data: Any, study: Path, resources: Resources
) -> None:
    folder = RunFolder(study / _TRIALS / tune.get_context().get_trial_name())
    try:
        config = overridden(config_of(base), values)
        train(
            config,
            ray.get(data),
            folder,
            resources,
            callbacks=[TuneReportCallback()],
        )
    except MbtiRayError as error:
        _report_failure(base, error)


def _report_failure(base: dict[str, Any], error: MbtiRayError) -> None:
    # The worst value there is: a scheduler compares it, the searcher records a failure.
    monitor = base["fit"]["monitor"]
    worst = float("inf") if monitor == "loss" else float("-inf")
    tune.report({monitor: worst, "epoch": 0, "seconds": 0.0, FAILED: str(error)})


def _run_of(config: StudyConfig) -> RunConfig:
    """The run that every trial starts from; its weights are chosen by what the study seeks."""
    return overridden(config, {"fit.monitor": config.objective})


def _scheduler(config: StudyConfig) -> TrialScheduler:
    if config.study.scheduler == "none":
        return FIFOScheduler()
    epochs = config.search.get("fit.epochs")
    longest = epochs.int_high if isinstance(epochs, IntRange) else config.fit.epochs
    return ASHAScheduler(
        time_attr="epoch",
        max_t=max(longest, config.study.grace_epochs),
        grace_period=min(config.study.grace_epochs, longest),
        reduction_factor=config.study.reduction,
    )


class _Watcher(tune.Callback):  # type: ignore[misc]
    def __init__(self, study: optuna.Study, searcher: StudySearcher, on_trial: OnTrial) -> None:
        self._study, self._searcher, self._on_trial = study, searcher, on_trial

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial)

    def _tell(self, trial: Any) -> None:
        number = self._searcher.numbers[trial.trial_id]
        self._on_trial(self._study.get_trials(deepcopy=False)[number])


def _write_trials(study: optuna.Study, config: StudyConfig, folder: RunFolder) -> None:
    rows = [
        {
            "number": t.number,
            "state": t.state.name,
            config.objective: best_value(t, config.objective),
            **t.params,
            "epochs": t.user_attrs.get("epochs", 0),
            "seconds": t.user_attrs.get("seconds", 0.0),
            "reason": t.user_attrs.get("reason"),
            "folder": f"{_TRIALS}/{t.user_attrs['folder']}",
        }
        for t in study.get_trials(deepcopy=False)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "trials.parquet")
