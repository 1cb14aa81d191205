"""Drivers of a study: which command runs a trial, and which of them are known to be dead.

Several commands may run trials of one study in one database. Must not know Ray.
"""

import threading
import warnings
from contextlib import suppress
from typing import Any
from uuid import uuid4

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from mbti_ray.runs.run_lock import describe_process, is_alive

HEARTBEAT_S, GRACE_S = 10, 60
_DRIVER = "driver"
# Drivers of this process that have not ended.
_RUNNING: set[str] = set()


class Driver:
    """A command that runs trials; while the block runs, others know that its trials are alive."""

    def __init__(self, study: optuna.Study) -> None:
        self._info = describe_process() | {"id": uuid4().hex}
        self._storage = study._storage
        self._trial_ids: set[int] = set()
        self._is_over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Driver":
        _RUNNING.add(self._info["id"])
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._heart.join()
        _RUNNING.discard(self._info["id"])

    def claim(self, trial: optuna.Trial) -> None:
        """Mark a trial that was just asked for as this driver's."""
        trial.set_user_attr(_DRIVER, self._info)
        self._record_heartbeat(trial._trial_id)
        self._trial_ids.add(trial._trial_id)

    def release(self, trial: optuna.Trial) -> None:
        self._trial_ids.discard(trial._trial_id)

    def _beat(self) -> None:
        while not self._is_over.wait(HEARTBEAT_S):
            for trial_id in tuple(self._trial_ids):
                # A database that is lost for a while may be back at the next beat.
                with suppress(StorageInternalError, SQLAlchemyError, UpdateFinishedTrialError):
                    self._record_heartbeat(trial_id)

    def _record_heartbeat(self, trial_id: int) -> None:
        if isinstance(self._storage, BaseHeartbeat) and is_heartbeat_enabled(self._storage):
            self._storage.record_heartbeat(trial_id)


def fail_dead_trials(study: optuna.Study, *, is_exclusive: bool) -> None:
    """Record the trials of dead drivers as FAIL, and enqueue their params again.

    Where no other command can use the database (`is_exclusive`), a driver of which nothing is known
    is dead; otherwise after `GRACE_S` without a heartbeat.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        state = _state(trial.user_attrs.get(_DRIVER))
        if state is False or (state is None and is_exclusive):
            fail_and_requeue(study, trial.number, trial.params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)


def _state(driver: dict[str, Any] | None) -> bool | None:
    """Whether a driver is alive; None if that is not known."""
    if driver is None:
        return None
    if driver["id"] in _RUNNING:
        return True
    is_own_process = driver == driver | describe_process() | {"since": driver["since"]}
    return False if is_own_process else is_alive(driver)


def fail_and_requeue(study: optuna.Study, number: int, params: dict[str, Any]) -> None:
    """Record an interrupted trial as FAIL and enqueue its params again."""
    study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    requeue(study, number, params)


def requeue(study: optuna.Study, number: int, params: dict[str, Any]) -> None:
    """Enqueue the params of a failed trial once more."""
    study.enqueue_trial(dict(params), user_attrs={"retry_of": number})
