"""Where a study is kept: made, opened again after whatever ended it, begun with what others know.

The database says what happened, and is all that a study is resumed from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, journal
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from mbti_ray.config import StudyConfig, load_study
from mbti_ray.config.schema import mode_of
from mbti_ray.config.search_space import default_point
from mbti_ray.errors import ConfigError, RunError, one_line
from mbti_ray.runs.run_folder import open_run
from mbti_ray.study.records import EVALUATED, best_of, record_of
from mbti_ray.study.sampling import distributions, fits

Answer = TypeVar("Answer")

# How long SQLite waits, at each statement, for a database that somebody else holds.
PATIENCE_S = 60.0
_TROUBLE = (StorageInternalError, SQLAlchemyError, OSError)


def open_study(folder: Path, config: StudyConfig, *, name: str) -> optuna.Study:
    """The Optuna study of a folder, made if there is none.

    A trial that a killed driver left RUNNING becomes FAIL, and its point is tried again.

    Raises:
        ConfigError: The database that `study.storage` names cannot be opened, or a study to start
            from cannot be used.
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
    except (*_TROUBLE, ImportError, ValueError) as error:
        raise ConfigError(f"study.storage={config.study.storage}: {_said(error)}") from None
    for orphan in study.get_trials(states=(TrialState.RUNNING,)):
        give_back(study, orphan.number, orphan.params)
    begun = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(
        # A resumed study with the seed that it began with would suggest its first points again.
        seed=int(np.random.SeedSequence([config.seed, len(begun)]).generate_state(1)[0]),
        n_startup_trials=config.study.startup_trials,
        # Trials run side by side: do not suggest what is being tried just now.
        constant_liar=True,
    )
    if not begun:
        _begin(study, config)
    for point in config.study.start:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    return study


def give_back(study: optuna.Study, number: int, params: dict[str, Any]) -> None:
    """A trial was cut off by what it cannot help: it is FAIL, and its point waits once more."""
    study.tell(number, state=TrialState.FAIL)
    wait_again(study, number, params)


def wait_again(study: optuna.Study, number: int, params: dict[str, Any]) -> None:
    """Let the point of a trial that failed wait to be tried once more."""
    study.enqueue_trial(dict(params), user_attrs={"retry_of": number})


def kept(do: Callable[[], Answer], *, where: str) -> Answer:
    """What `do` answers, a step that reads or writes the study.

    Never repeats it: of a step of several transactions the first may have been kept.

    Raises:
        RunError: The study cannot be read or written, or is held for longer than a minute.
    """
    try:
        return do()
    except _TROUBLE as error:
        said = f"the study cannot be kept ({_said(error)}); mend that, and go on with --resume"
        raise RunError(f"{where}: {said}") from None


def _begin(study: optuna.Study, config: StudyConfig) -> None:
    """What a new study tries first, and what it knows from earlier ones."""
    default = default_point(config)
    if config.study.try_default and default is not None:
        study.enqueue_trial(default, user_attrs={"is_default": True})
    for place in config.study.warm_start:
        with open_run(place) as earlier:
            _learn_from(study, config, earlier.path, f"study.warm_start={place}")


def _learn_from(study: optuna.Study, config: StudyConfig, folder: Path, where: str) -> None:
    """Take over the trials of an earlier study that fit, and try its best point here too."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{where}: is no folder of a study (no config.yaml in it)")
    earlier = load_study(str(folder / "config.yaml"))
    if earlier.objectives != config.objectives:
        raise ConfigError(
            f"{where}: sought {', '.join(earlier.objectives)}, and this study seeks "
            f"{', '.join(config.objectives)}; set study.objective to the same"
        )
    try:
        known = optuna.load_study(
            study_name=folder.name, storage=_storage(folder, earlier.study.storage)
        )
        trials = known.get_trials(deepcopy=False)
    except (*_TROUBLE, KeyError) as error:
        raise ConfigError(f"{where}: {_said(error)}") from None
    taken = []
    for trial in trials:
        record = record_of(trial)
        if trial.state.name in EVALUATED and record.values and fits(config.search, record.params):
            taken.append(trial)
            study.add_trial(_imported(trial, config, folder.name))
    if not taken:
        raise ConfigError(
            f"{where}: none of its {len(trials)} trials fits this search; search the same "
            "addresses, in ranges that hold them"
        )
    best = best_of([record_of(t) for t in taken], config.objectives)
    if best is not None:
        study.enqueue_trial(best.params, skip_if_exists=False)


def _imported(
    trial: optuna.trial.FrozenTrial, config: StudyConfig, name: str
) -> optuna.trial.FrozenTrial:
    kept = ("values", "evaluations", "epochs", "seconds")
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=distributions(config.search, trial.params),
        user_attrs={k: v for k, v in trial.user_attrs.items() if k in kept}
        | {"imported": f"{name}, trial {trial.number}"},
        intermediate_values=trial.intermediate_values if len(config.objectives) == 1 else None,
    )


def _storage(folder: Path, storage: str | None) -> optuna.storages.BaseStorage:
    if storage == "journal":
        backend = journal.JournalFileBackend(str(folder / "optuna.journal"))
        return optuna.storages.JournalStorage(backend)
    url = storage or f"sqlite:///{folder / 'optuna.db'}"
    waits = {"connect_args": {"timeout": PATIENCE_S}} if url.startswith("sqlite") else {}
    return RDBStorage(url, engine_kwargs=waits)


def _said(error: BaseException) -> str:
    """The reason in one line: that of the database, not of the layers above it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(getattr(error, "orig", None) or error, limit=160)
