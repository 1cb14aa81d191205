"""The database of a study, all that it is resumed from: created, reopened, warm-started."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, journal
from sqlalchemy.exc import SQLAlchemyError

from mbti_ray.config import StudyConfig, get_value, load_study
from mbti_ray.config.schema import mode_of
from mbti_ray.config.search_space import default_point
from mbti_ray.errors import ConfigError, RunError, one_line
from mbti_ray.runs.run_folder import open_run
from mbti_ray.study.drivers import GRACE_S, HEARTBEAT_S, fail_dead_trials, requeue
from mbti_ray.study.records import EVALUATED, best_of, record_of
from mbti_ray.study.sampling import distribution, fits

Result = TypeVar("Result")

# How long SQLite waits, at each statement, for a database that another process has locked.
LOCK_TIMEOUT_S = 60.0
# How often the tables are created, if others create them, too; and the pause in between.
_CREATIONS, _CREATION_S = 10, 0.5
# Settings that a study is recognized by.
_DESCRIBED = ("data.source", "model.encoder", "study.scheduler", "seed")
_RACE_WORDS = ("already exists", "unique constraint", "duplicate")
_STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)


def open_study(folder: Path, config: StudyConfig, *, name: str) -> optuna.Study:
    """The Optuna study of a folder, created if there is none.

    A trial that a dead driver left RUNNING becomes FAIL, and its params are tried again. Raises
    ConfigError if the database, or a study to warm-start from, cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [f"{mode_of(objective)}imize" for objective in config.objectives]
    try:
        study = optuna.create_study(
            storage=_storage(folder, config.study.storage),
            study_name=name,
            directions=directions,
            load_if_exists=True,
        )
    except (*_STORAGE_ERRORS, ImportError, ValueError) as error:
        raise ConfigError(f"study.storage={config.study.storage}: {_reason(error)}") from None
    # A database in the folder belongs to the command that holds the folder's lock.
    fail_dead_trials(study, is_exclusive=not is_shared(config))
    existing = study.get_trials(deepcopy=False)
    if not existing:
        _describe(study, config)
    study.sampler = optuna.samplers.TPESampler(
        seed=_sampler_seed(config, len(existing)),
        n_startup_trials=config.study.startup_trials,
        # Trials run side by side: do not suggest what is running just now.
        constant_liar=True,
    )
    if not existing:
        _enqueue_first_trials(study, config)
    for point in config.study.start:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    return study


def _describe(study: optuna.Study, config: StudyConfig) -> None:
    """What optuna-dashboard shows of a study: the names of its objectives, and what it is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(config.objectives))
    for address in _DESCRIBED:
        study.set_user_attr(address, get_value(config, address))


def _sampler_seed(config: StudyConfig, existing: int) -> int:
    """Another one at each opening: with its first seed a study would repeat its first points."""
    # Commands that open a shared study at the same moment must not suggest the same points.
    own = [os.getpid()] if is_shared(config) else []
    return int(np.random.SeedSequence([config.seed, existing, *own]).generate_state(1)[0])


def is_shared(config: StudyConfig) -> bool:
    """Whether commands in other folders may run trials of the same study."""
    return config.study.storage not in (None, "journal")


def guarded(operation: Callable[[], Result], *, where: str) -> Result:
    """The result of an operation that reads or writes the study, or a RunError.

    It is never retried: of several transactions the first may have been committed.
    """
    try:
        return operation()
    except _STORAGE_ERRORS as error:
        raise RunError(
            f"{where}: the study cannot be saved ({_reason(error)}); fix that, then continue with "
            "--resume"
        ) from None


def _enqueue_first_trials(study: optuna.Study, config: StudyConfig) -> None:
    """Enqueue what a new study tries first, and import trials of earlier studies."""
    default = default_point(config)
    if config.study.try_default and default is not None:
        study.enqueue_trial(default, user_attrs={"is_default": True})
    for place in config.study.warm_start:
        with open_run(place) as earlier:
            _import_trials(study, config, earlier.path, f"study.warm_start={place}")


def _import_trials(study: optuna.Study, config: StudyConfig, folder: Path, where: str) -> None:
    """Import the trials of an earlier study that fit, and enqueue its best params."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{where}: is not the folder of a study (it has no config.yaml)")
    earlier = load_study(str(folder / "config.yaml"))
    if earlier.objectives != config.objectives:
        raise ConfigError(
            f"{where}: optimized {', '.join(earlier.objectives)}, and this study optimizes "
            f"{', '.join(config.objectives)}; set the same study.objective"
        )
    try:
        known = optuna.load_study(
            study_name=folder.name, storage=_storage(folder, earlier.study.storage)
        )
        trials = known.get_trials(deepcopy=False)
    except (*_STORAGE_ERRORS, KeyError) as error:
        raise ConfigError(f"{where}: {_reason(error)}") from None
    imported = []
    for trial in trials:
        record = record_of(trial)
        if trial.state.name in EVALUATED and record.values and fits(config.search, record.params):
            imported.append(trial)
            study.add_trial(_imported(trial, config, folder.name))
    if not imported:
        raise ConfigError(
            f"{where}: none of its {len(trials)} trials fits this search; search the same "
            "addresses, in ranges that contain them"
        )
    best = best_of([record_of(t) for t in imported], config.objectives)
    if best is not None:
        study.enqueue_trial(best.params, skip_if_exists=False)


def _imported(
    trial: optuna.trial.FrozenTrial, config: StudyConfig, name: str
) -> optuna.trial.FrozenTrial:
    copied = ("values", "evaluations", "epochs", "seconds")
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions={a: distribution(config.search[a]) for a in trial.params},
        user_attrs={k: v for k, v in trial.user_attrs.items() if k in copied}
        | {"imported": f"{name}, trial {trial.number}"},
        intermediate_values=trial.intermediate_values if len(config.objectives) == 1 else None,
    )


def _storage(folder: Path, storage: str | None) -> optuna.storages.BaseStorage:
    if storage == "journal":
        backend = journal.JournalFileBackend(str(folder / "optuna.journal"))
        return optuna.storages.JournalStorage(backend)
    url = storage or f"sqlite:///{folder / 'optuna.db'}"
    locking = {"connect_args": {"timeout": LOCK_TIMEOUT_S}} if url.startswith("sqlite") else {}
    if storage is None:
        return RDBStorage(url, engine_kwargs=locking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for attempt in range(_CREATIONS):
            try:
                return RDBStorage(
                    url,
                    engine_kwargs=locking,
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GRACE_S,
                    heartbeat_stale_trial_callback=lambda s, t: requeue(s, t.number, t.params),
                )
            except SQLAlchemyError as error:
                # Another command creates the tables at this very moment.
                is_race = any(word in str(error).lower() for word in _RACE_WORDS)
                if not is_race or attempt == _CREATIONS - 1:
                    raise
                time.sleep(_CREATION_S)
    raise AssertionError


def _reason(error: BaseException) -> str:
    """The reason in one line: that of the database, not of the layers above it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(getattr(error, "orig", None) or error, limit=160)
