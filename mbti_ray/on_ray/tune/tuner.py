"""A study: Ray Tune runs trials, Optuna suggests them, a scheduler stops the poor ones.

A trial of one worker trains inside the Tune actor, which is kept for the next trial; a trial of
several workers builds a TorchTrainer. Both run the one loop of `engine`; see `trial`.
"""

import math
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray import tune

from mbti_ray.config import RunConfig, StudyConfig, config_from_dict, override
from mbti_ray.config.schema import mode_of
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.checkpoint import newest_checkpoint
from mbti_ray.engine.loop import rescore
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import RunError, StoppedError
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.train.remote_checkpoints import download_each, ray_storage
from mbti_ray.on_ray.tune.optuna_searcher import OnTrial, StudySearcher, trial_folder_name
from mbti_ray.on_ray.tune.schedulers import build_scheduler
from mbti_ray.on_ray.tune.trial import Job, trainable
from mbti_ray.reports.html import write_whole
from mbti_ray.reports.study_page import study_page
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.storage.remote import Location
from mbti_ray.study.figures import study_figures
from mbti_ray.study.records import TrialRecord, best_of, ended_count, records_of
from mbti_ray.study.store import open_study

# Tune reads these when it starts.
_TUNE_SETTINGS = {
    # Its handler would stop the running trials at the first Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The study's database has what its CSV, JSON and TensorBoard files would have.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
if TYPE_CHECKING:
    import optuna

_TRIALS = "trials"
# Checkpoints of a trial; others of a population may be about to copy one.
_KEPT = {"asha": 1, "none": 1, "pbt": 4}

Figures = dict[str, Any]
Say = Callable[[str], None]


def search(
    config: StudyConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    *,
    at_once: int,
    on_trial: OnTrial | None = None,
    say: Say = print,
) -> tuple["optuna.Study", str | None]:
    """Run the trials that the study still lacks; its database is in the folder afterwards.

    Ctrl-C or SIGTERM once begins no new trial; Ctrl-C again cuts off those that run.

    Args:
        at_once: Trials that run side by side.
        on_trial: Called on the driver with each trial that has ended.
        say: Called with what the person who waits should know.

    Returns:
        The study, and why it ended before its trials were done, if it did.

    Raises:
        RunError: The study's database could not be written any more.
        StoppedError: It was cut off.
    """
    study = open_study(folder.path, config, name=folder.path.name)
    missing = (config.study.trials or math.inf) - ended_count(records_of(study))
    if missing <= 0:
        return study, None
    os.environ |= _TUNE_SETTINGS
    searcher = StudySearcher(study, config, budget=missing, keep=folder.push, on_trial=on_trial)
    tuner = _tuner(config, data, folder, resources, searcher, at_once=at_once)
    with _closing_on_signals(searcher, say):
        try:
            tuner.fit()
        except KeyboardInterrupt:
            searcher.give_back_open()
            folder.push()
            raise StoppedError(
                f"{folder.location}: cut off; the trials that ran are tried again, --resume goes on"
            ) from None
    if searcher.trouble is not None:
        raise searcher.trouble
    return study, searcher.closed


def finish_study(
    config: StudyConfig,
    data: Dataset,
    study: "optuna.Study",
    folder: RunFolder,
    resources: Resources,
    *,
    at_once: int,
    ended: str | None = None,
) -> Figures:
    """Score the best trial on the test split; write best/, trials.parquet and report.html.

    Args:
        ended: Why the study ended before its trials were done.

    Returns:
        The study's figures; see `study.figures`.

    Raises:
        RunError: No trial was evaluated; the message gives the first reason.
    """
    records = records_of(study)
    _write_trials(records, config, folder)
    best = best_of(records, config.objectives)
    if best is None:
        reason = next((r.reason for r in records if r.reason), "see the Ray logs")
        raise RunError(f"{folder.location}: no trial was evaluated; the first says: {reason}")
    checkpoint = _checkpoint_of(best, folder)
    # In a worker, because the driver's machine may have no GPU and little memory.
    task = ray.remote(
        name=f"{folder.location.name}/{folder.best.path.name}",
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )(_finish_best)
    run_config = _best_run(config, best, resources)
    plain = run_config.model_dump(mode="json")
    ray.get(task.remote(plain, ray.put(data), checkpoint, folder.best.location, resources))
    folder.best.pull()
    figures = study_figures(study, config) | {
        "at_once": at_once,
        "stopped_early": ended,
        "bundle": f"The bundle is made from the checkpoint of trial {best.number}, not retrained.",
        "command": _repeating(folder),
    }
    write_whole(folder.report, study_page(figures))
    folder.push()
    return figures


def _checkpoint_of(trial: TrialRecord, folder: RunFolder) -> Location:
    """Of the weights that the trial ended with, which need not have seen the most steps."""
    place = folder.location / str(trial.folder)
    found = place / trial.checkpoint if trial.checkpoint else newest_checkpoint(place)
    if found is None or not found.exists():
        raise RunError(f"{folder.location}: the checkpoint of trial {trial.number} is gone")
    return found


def _best_run(config: StudyConfig, best: TrialRecord, resources: Resources) -> RunConfig:
    # With the threads of the trial: sums in another order are other weights.
    return override(_run_of(config), {**best.last_params, "scaling.cpus": resources.cpus})


def _repeating(folder: RunFolder) -> str:
    name = f"{folder.path.name}-again"
    config = shlex.quote(str(folder.best.location / folder.config.name))
    return f"python -m mbti_ray.train {config} name={name}"


def _finish_best(
    tree: dict[str, Any], data: Dataset, checkpoint: Location, best: Location, resources: Resources
) -> None:
    torch.set_num_threads(resources.cpus)
    config, worker = config_from_dict(tree), Worker(device=resources.device)
    with open_run(best) as folder:
        folder.begin(config, "fresh")
        found = [checkpoint] if isinstance(checkpoint, Path) else download_each([checkpoint])
        finalize_run(config, data, rescore(config, data, worker, found), folder)
        folder.push()


def _tuner(
    config: StudyConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    searcher: StudySearcher,
    *,
    at_once: int,
) -> tune.Tuner:
    job = Job(
        base=_run_of(config).model_dump(mode="json"),
        data=ray.put(data),
        trials=folder.location / _TRIALS,
        resources=resources,
        objectives=config.objectives,
        seeds=config.study.seeds,
    )

    def named(trial: Any) -> str:
        return trial_folder_name(searcher.numbers[trial.trial_id])

    return tune.Tuner(
        trainable(job, workers=config.scaling.most),
        tune_config=tune.TuneConfig(
            metric=config.objective,
            mode=mode_of(config.objective),
            search_alg=searcher,
            scheduler=build_scheduler(config),
            # The searcher says when there are enough.
            num_samples=-1,
            # A population has to be there whole, though not all of it trains at once.
            max_concurrent_trials=None if config.study.scheduler == "pbt" else at_once,
            reuse_actors=config.scaling.most == 1,
            trial_name_creator=named,
            trial_dirname_creator=named,
        ),
        run_config=tune.RunConfig(
            name=_TRIALS,
            **ray_storage(folder.location),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT[config.study.scheduler]),
            failure_config=tune.FailureConfig(max_failures=config.failure.max_failures),
            verbose=0,
        ),
    )


@contextmanager
def _closing_on_signals(searcher: StudySearcher, say: Say) -> Iterator[None]:
    """Ctrl-C and SIGTERM close the study to new trials; Ctrl-C again raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def close(number: int, frame: object) -> None:
        if searcher.closed and number == signal.SIGINT:
            raise KeyboardInterrupt
        searcher.close(f"stopped by {signal.Signals(number).name}")
        say("no new trial begins; those that run come to their end, Ctrl-C again cuts them off")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, close) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_of(config: StudyConfig) -> RunConfig:
    """The run that every trial starts from; its weights are chosen by what the study seeks."""
    return override(config, {"fit.monitor": config.objective})


def _write_trials(records: list[TrialRecord], config: StudyConfig, folder: RunFolder) -> None:
    rows = [
        {
            "number": r.number,
            "state": r.state,
            **{o: r.values[i] if r.values else None for i, o in enumerate(config.objectives)},
            **{address: r.params.get(address) for address in config.search},
            "epochs": r.epochs,
            "seconds": r.seconds,
            "started": r.started,
            "ended": r.ended,
            "worker": r.worker,
            "reason": r.reason,
            "imported": r.imported,
            "folder": r.folder,
        }
        for r in records
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder.path / "trials.parquet")
