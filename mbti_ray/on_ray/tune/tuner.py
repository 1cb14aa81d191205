"""A study: Ray Tune runs trials, Optuna suggests them, a scheduler stops the poor ones.

Must not know what happens inside a trial (see `trial`) or how the study is stored (`study.store`).
"""

import json
import math
import shlex
import signal
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import torch
from ray import tune
from ray.exceptions import RayTaskError

from mbti_ray.config import RunConfig, StudyConfig, override
from mbti_ray.config.schema import mode_of
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.engine.cross_fit import cross_fit
from mbti_ray.engine.loop import rescore, run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import MbtiRayError, RunError, StoppedError
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.folds import train_folds
from mbti_ray.on_ray.cluster.connectivity import is_only_node_here
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.shared_dataset import SharedDataset
from mbti_ray.on_ray.signals import handle_signals
from mbti_ray.on_ray.train.remote_checkpoints import download_each, outlast, ray_storage
from mbti_ray.on_ray.tune.optuna_searcher import Display, StudySearcher, trial_folder_name
from mbti_ray.on_ray.tune.schedulers import build_scheduler
from mbti_ray.on_ray.tune.trial import TrialSetup, build_trainable
from mbti_ray.reports.html import write_page
from mbti_ray.reports.scorecard_page import About
from mbti_ray.reports.study_page import study_page
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.scores.study_summary import StudySummary
from mbti_ray.storage.output_tables import write_tables
from mbti_ray.storage.remote import Location, absolute_location, parse_location
from mbti_ray.study.records import TrialRecord, best_of, count_evaluated, records_of
from mbti_ray.study.store import open_study
from mbti_ray.study.summary import summarize_study

if TYPE_CHECKING:
    import optuna

_TRIALS = "trials"
# Of trials.parquet, besides number, state, objectives and params.
_TRIAL_COLUMNS = ["epochs", "seconds", "started", "ended", "worker", "reason", "imported", "folder"]
# Checkpoints kept of a trial; other members of a population may be about to copy one.
_NUM_TO_KEEP = {"asha": 1, "none": 1, "pbt": 4}


def run_study(
    config: StudyConfig,
    data: Sequence[Dataset],
    folder: RunFolder,
    resources: Resources,
    *,
    at_once: int,
    display: Display | None = None,
    notify: Callable[[str], None] = print,
) -> tuple["optuna.Study", str | None]:
    """Run the trials that the study still lacks, `at_once` side by side; its database is written.

    After one Ctrl-C or SIGTERM no new trial is started; a second Ctrl-C interrupts those that run.
    Returns the study, and why it ended before its trials were done, if it did.

    RunError where it, or checkpoints of it, could not be saved any more, StoppedError where it was
    interrupted.

    Args:
        data: With `data.folds`, all rows, then the folds.
        notify: Called with messages for the user.
    """
    study = open_study(folder.path, config, name=folder.path.name)
    records = records_of(study)
    missing = (config.study.trials or math.inf) - count_evaluated(records)
    if missing <= 0:
        return study, None
    if display is not None:
        display.begin(records)
    searcher = StudySearcher(
        study,
        config,
        home=absolute_location(folder.location),
        budget=missing,
        push=partial(outlast, folder.push, folder.location),
        display=display,
    )
    tuner = _tuner(config, data, folder, resources, searcher, at_once=at_once)

    def stop(number: int) -> None:
        if searcher.stop_reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        searcher.stop(f"stopped by {signal.Signals(number).name}")
        notify("no new trial starts and those that run continue; Ctrl-C again interrupts them")

    with searcher.driver, handle_signals(stop):
        try:
            tuner.fit()
        except KeyboardInterrupt:
            searcher.requeue_running()
            folder.push()
            raise StoppedError(
                f"{folder.location}: interrupted; --resume continues with the open trials",
                signal.SIGINT,
            ) from None
    if searcher.error is not None:
        raise searcher.error
    return study, searcher.stop_reason


def finish_study(
    config: StudyConfig,
    data: Sequence[Dataset],
    study: "optuna.Study",
    folder: RunFolder,
    resources: Resources,
    *,
    at_once: int,
    stopped_early: str | None = None,
) -> StudySummary:
    """Score the best trial on the test split; write best/, trials.parquet and report.html.

    With `data.folds` it is trained again: each fold is scored, and the bundle is of all rows. Takes
    the data of `run_study`, and what that returned. RunError, with the first reason, where no trial
    was evaluated.
    """
    records = records_of(study)
    _write_trials(records, config, folder)
    best, checkpoint = _best_with_checkpoint(records, config, folder)
    # With the threads of the trial: sums in another order would give other weights.
    values = {**best.last_params, "scaling.cpus": resources.cpus}
    run_config = override(_run_of(config), values)
    shared = [*map(SharedDataset.of, data)]
    parts = run_config, shared, checkpoint, folder.best.location, resources
    if resources.gpus or folder.remote or not is_only_node_here():
        # The driver's machine may have no GPU and little memory.
        name = f"{folder.location.name}/{folder.best.path.name}"
        task = ray.remote(name=name, num_cpus=resources.cpus, num_gpus=resources.gpus)(_finish_best)
        try:
            ray.get(task.remote(*parts))
        except RayTaskError as error:
            # Its text is a stack trace.
            raise (error.cause if isinstance(error.cause, MbtiRayError) else error) from None
    else:
        # A worker's process would first import for seconds what this one has.
        threads = torch.get_num_threads()
        try:
            _finish_best(*parts)
        finally:
            torch.set_num_threads(threads)
    repeated = shlex.quote(str(folder.best.location / folder.config.name))
    folder.best.pull()
    summary: StudySummary = {
        **summarize_study(study, config),
        "at_once": at_once,
        "stopped_early": stopped_early,
        "bundle": f"The bundle is trained on all rows with the settings of trial {best.number}."
        if config.data.trains_on_all
        else f"The bundle is made from the checkpoint of trial {best.number}, not retrained.",
        "command": f"python -m mbti_ray.train {repeated} name={folder.path.name}-again",
    }
    page = study_page(
        summary,
        json.loads(folder.best.scores.read_text("utf-8"))["scorecard"],
        about=About(run_config, str(folder.location), str(date.today())),
        data_info=data[0].info.as_dict(),
    )
    write_page(folder.report, page)
    folder.push()
    return summary


def _best_with_checkpoint(
    records: Sequence[TrialRecord], config: StudyConfig, folder: RunFolder
) -> tuple[TrialRecord, Location]:
    """The best trial and the checkpoint it ended with, which need not have the most steps.

    Trials of commands in other folders count where their checkpoints can be reached from here.
    """
    best = best_of(records, config.objectives)
    if best is None:
        reason = next((r.reason for r in records if r.reason), "see the Ray logs")
        raise RunError(f"{folder.location}: no trial was evaluated; the first one: {reason}")
    home = folder.location if best.home is None else parse_location(best.home)
    place = home / str(best.folder)
    found = [place / best.checkpoint] if best.checkpoint else checkpoints_under(place)
    if found and found[0].exists():
        return best, found[0]
    others = [r for r in records if r is not best]
    if home == folder.location or best_of(others, config.objectives) is None:
        raise RunError(f"{folder.location}: the checkpoint of trial {best.number} is missing")
    return _best_with_checkpoint(others, config, folder)


def _finish_best(
    config: RunConfig,
    shared: Sequence[SharedDataset],
    checkpoint: Location,
    best: Location,
    resources: Resources,
) -> None:
    """Score and bundle the checkpoint; with `data.folds` the folds and all rows are trained."""
    torch.set_num_threads(resources.cpus)

    def finish(config: RunConfig, folder: RunFolder, found: Iterable[Path] = ()) -> None:
        fold = (config.data.fold or 0) if len(shared) > 1 else 0
        data, worker = shared[fold].load(), Worker(device=resources.device)
        if not config.model.has_encoder:
            # The folds of model.reader=best ship TF-IDF.
            return finalize_run(config, data, None, folder)
        if found:
            outcome = rescore(config, data, worker, found)
        else:
            outcome = run(config, data, worker, keeps_last_epoch=config.data.trains_on_all)
        cross_fitted = cross_fit(config, data, worker, epochs=outcome.progress.best_epoch)
        finalize_run(config, data, outcome, folder, cross_fitted=cross_fitted)

    def train_fold(config: RunConfig, folder: RunFolder) -> None:
        folder.begin(config, "fresh")
        finish(config, folder)

    with open_run(best) as folder:
        folder.begin(config, "fresh")
        if config.data.trains_on_all:
            finish(train_folds(config, folder, train_fold), folder)
        else:
            found = [checkpoint] if isinstance(checkpoint, Path) else download_each([checkpoint])
            finish(config, folder, found)
        folder.push()


def _tuner(
    config: StudyConfig,
    data: Sequence[Dataset],
    folder: RunFolder,
    resources: Resources,
    searcher: StudySearcher,
    *,
    at_once: int,
) -> tune.Tuner:
    setup = TrialSetup(
        base=_run_of(config),
        data=[*map(SharedDataset.of, data[1:] or data)],
        trials=folder.location / _TRIALS,
        resources=resources,
        objectives=config.objectives,
        seeds=config.study.seeds,
    )

    def name_trial(trial: Any) -> str:
        return trial_folder_name(searcher.numbers[trial.trial_id])

    return tune.Tuner(
        build_trainable(setup, workers=config.scaling.most),
        tune_config=tune.TuneConfig(
            metric=config.objective,
            mode=mode_of(config.objective),
            search_alg=searcher,
            scheduler=build_scheduler(config),
            # The searcher ends the search.
            num_samples=-1,
            # A population has to exist as a whole, though not all of it trains at once.
            max_concurrent_trials=None if config.study.scheduler == "pbt" else at_once,
            reuse_actors=config.scaling.most == 1,
            trial_name_creator=name_trial,
            trial_dirname_creator=name_trial,
        ),
        run_config=tune.RunConfig(
            name=_TRIALS,
            **ray_storage(folder.location),
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=_NUM_TO_KEEP[config.study.scheduler]
            ),
            failure_config=tune.FailureConfig(max_failures=config.failure.max_failures),
            verbose=0,
        ),
    )


def _run_of(config: StudyConfig) -> RunConfig:
    """The run config that every trial starts from; its monitor is the study's objective."""
    return override(config, {"fit.monitor": config.objective})


def _write_trials(records: list[TrialRecord], config: StudyConfig, folder: RunFolder) -> None:
    rows = [
        {"number": r.number, "state": r.state}
        | {o: r.values[i] if r.values else None for i, o in enumerate(config.objectives)}
        | {address: r.params.get(address) for address in config.search}
        | {name: getattr(r, name) for name in _TRIAL_COLUMNS}
        for r in records
    ]
    table = pa.Table.from_pylist(rows)
    write_tables(folder.path / "trials.parquet", [table], table.schema)
