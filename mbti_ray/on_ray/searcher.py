"""The bridge between Ray Tune and Optuna: the study on disk says what happened.

Optuna's ask and tell, one study per name in the study folder's database. A trial that runs to its
own end is COMPLETE, one that the scheduler stopped is PRUNED with its intermediate values, one
that crashed or diverged is FAIL. (Ray's own OptunaSearch records stopped trials as COMPLETE and
leaves NaN trials RUNNING; see docs/decisions.md.)

The database is also what a study is resumed from, so this searcher has no state of its own.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import journal
from optuna.trial import TrialState
from ray.tune.search import Searcher
from sqlalchemy.exc import SQLAlchemyError

from mbti_ray.config import StudyConfig
from mbti_ray.config.schema import Choices, FloatRange, Range
from mbti_ray.engine.fit import is_finished
from mbti_ray.errors import ConfigError

# What a trial reports when it gave up for a reason that the user can mend.
FAILED = "failed"


def open_study(folder: Path, config: StudyConfig, *, name: str) -> optuna.Study:
    """The Optuna study of a folder, made if there is none; orphans of a killed driver are FAIL.

    Raises:
        ConfigError: The database that `study.storage` names cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=_storage(folder, config.study.storage),
            study_name=name,
            direction="minimize" if config.objective == "loss" else "maximize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"study.storage={config.study.storage}: {reason}") from None
    for orphan in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(orphan.number, state=TrialState.FAIL)
    begun = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(
        # A resumed study with the seed that it began with would suggest its first points again.
        seed=int(np.random.SeedSequence([config.seed, begun]).generate_state(1)[0]),
        n_startup_trials=config.study.startup_trials,
        # Trials run side by side: do not suggest what is being tried just now.
        constant_liar=True,
    )
    for point in config.study.start:
        study.enqueue_trial(dict(point), skip_if_exists=True)
    return study


def _storage(folder: Path, storage: str | None) -> str | optuna.storages.BaseStorage:
    if storage is None:
        return f"sqlite:///{folder / 'optuna.db'}"
    if storage == "journal":
        backend = journal.JournalFileBackend(str(folder / "optuna.journal"))
        return optuna.storages.JournalStorage(backend)
    return storage


class StudySearcher(Searcher):  # type: ignore[misc]
    """Suggests dotted run-config values and records what became of them."""

    def __init__(self, study: optuna.Study, config: StudyConfig) -> None:
        mode = "min" if config.objective == "loss" else "max"
        super().__init__(metric=config.objective, mode=mode)
        self._study = study
        self._space = {address: distribution(r) for address, r in config.search.items()}
        self._open: dict[str, optuna.Trial] = {}
        self._values: dict[str, dict[int, float]] = {}
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        trial = self._study.ask(self._space)
        self._open[trial_id] = trial
        self._values[trial_id] = {}
        self.numbers[trial_id] = trial.number
        trial.set_user_attr("folder", trial_folder_name(trial.number))
        return dict(trial.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self._open.get(trial_id)
        value = result.get(self.metric)
        if trial is None or value is None or FAILED in result or not math.isfinite(value):
            return
        # A restarted trial repeats what it had reported after its last checkpoint.
        if result["epoch"] in self._values[trial_id]:
            return
        self._values[trial_id][result["epoch"]] = value
        trial.report(value, step=result["epoch"])
        trial.set_user_attr("epochs", result["epoch"])
        trial.set_user_attr("seconds", result["seconds"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if result is not None:
            # A stopped trial's last result comes here only, that of a finished one a second time.
            self.on_trial_result(trial_id, result)
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return
        reported = self._values[trial_id]
        if error or result is None or FAILED in result or not reported:
            reason = (result or {}).get(FAILED, "the trial's process was lost")
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL)
        elif is_finished(result):
            best = min if self.mode == "min" else max
            self._study.tell(trial, best(reported.values()))
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher for Tuner.restore; a study is resumed from its database.
        return {"numbers": self.numbers}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the database holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; a study is resumed with `open_study`."""


def trial_folder_name(number: int) -> str:
    """The folder of a trial under the study's `trials/`."""
    return f"trial-{number:04d}"


def distribution(values: Range) -> BaseDistribution:
    """Optuna's form of a searched range."""
    if isinstance(values, Choices):
        return CategoricalDistribution(values.choices)
    if isinstance(values, FloatRange):
        return FloatDistribution(values.low, values.high, log=values.log)
    return IntDistribution(values.int_low, values.int_high)


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The trial with the best evaluation of all, stopped or not; None if none was evaluated."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    evaluated = [t for t in study.get_trials(deepcopy=False) if t.intermediate_values]
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    evaluated = [t for t in evaluated if t.state in states]
    return min(
        evaluated,
        key=lambda t: (min(sign * v for v in t.intermediate_values.values()), t.number),
        default=None,
    )


def best_value(trial: optuna.trial.FrozenTrial, objective: str) -> float | None:
    """The best evaluation of a trial, which is the one that its bundle is made from."""
    values: list[float] = list(trial.intermediate_values.values())
    if not values:
        return None
    return min(values) if objective == "loss" else max(values)
