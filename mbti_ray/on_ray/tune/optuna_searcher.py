"""The bridge between Ray Tune and Optuna: a Searcher that records every trial in the study.

Uses Optuna's ask and tell on the study's database. A trial that runs to its own end is COMPLETE,
one that the scheduler stopped is PRUNED with its intermediate values, one that crashed or diverged
is FAIL; Ray's own OptunaSearch records stopped trials as COMPLETE and leaves NaN trials RUNNING.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from ray.tune.search import Searcher

from mbti_ray.config import StudyConfig
from mbti_ray.config.schema import mode_of
from mbti_ray.errors import RunError
from mbti_ray.study.drivers import Driver, fail_and_requeue, fail_dead_trials, requeue
from mbti_ray.study.records import TrialRecord, count_evaluated, record_of, records_of
from mbti_ray.study.sampling import ask_trial
from mbti_ray.study.store import guarded, is_shared

# What a trial has reported: `flat_report` of an epoch; the mean over its seeds and folds, with the
# objectives of each as `seeds`; or why it `failed`, if for want of storage with `storage_lost`.
Result = dict[str, Any]


class Display(Protocol):
    """Who shows the progress of the study."""

    def begin(self, records: list[TrialRecord]) -> None:
        """The trials that the study has already."""

    def add_epoch(self, number: int, epoch: int, value: float) -> None:
        """A running trial has finished an epoch with a value of the first objective."""

    def end_trial(self, trial: TrialRecord) -> None:
        """A trial has ended, in whatever way."""


@dataclass
class _RunningTrial:
    """A trial that runs, and what it has reported so far (see `TrialRecord`).

    `reported` are the epochs that Optuna has as intermediate values, `written` the user attributes
    that the database has.
    """

    trial: optuna.Trial
    params: dict[str, Any]
    evaluations: dict[int, list[float]] = field(default_factory=dict)
    schedule: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    values: list[float] | None = None
    reported: set[int] = field(default_factory=set)
    written: dict[str, Any] = field(default_factory=dict)


class StudySearcher(Searcher):  # type: ignore[misc]
    """Suggests dotted run-config values and records what became of them.

    Args:
        home: The study's folder, where commands in other folders find the trials.
        push: Uploads the database, where the storage is a URL; called when a trial has started and
            when it has ended.

    Attributes:
        numbers: Number of each trial in the study, by Tune's trial id.
        driver: To be entered while trials run.
        stop_reason: Why no new trial is started, if so.
        error: Why the study cannot be saved any more, if so.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        *,
        home: str | None = None,
        budget: float = math.inf,
        push: Callable[[], None] = lambda: None,
        display: Display | None = None,
    ) -> None:
        super().__init__(metric=config.objective, mode=mode_of(config.objective))
        self._study = study
        self.driver = Driver(study)
        self._config = config
        self._home = home
        self._budget = budget
        self._restarts = config.failure.max_failures
        self._push = push
        self._display = display
        self._running: dict[str, _RunningTrial] = {}
        self._deadline = time.monotonic() + 3600 * (config.study.hours or math.inf)
        self.numbers: dict[str, int] = {}
        self.stop_reason: str | None = None
        self.error: RunError | None = None
        self._has_database = True

    def stop(self, reason: str) -> None:
        """Start no new trial; those that run continue to their end."""
        self.stop_reason = self.stop_reason or reason

    def requeue_running(self) -> None:
        """Record the running trials as FAIL; a resumed study tries their params again."""
        for running in self._running.values():
            running.trial.set_user_attr("reason", "interrupted by Ctrl-C")
            fail_and_requeue(self._study, running.trial.number, running.trial.params)
        self._running = {}

    def suggest(self, trial_id: str) -> Result | str | None:
        if time.monotonic() > self._deadline:
            self.stop(f"study.hours={self._config.study.hours:g} have passed")
        if is_shared(self._config):
            self._guarded(lambda: fail_dead_trials(self._study, is_exclusive=False))
        if (self._budget < 1 or self._is_full()) and not self.stop_reason:
            # A running trial may still be lost, and then its params have to be tried again.
            return None if self._running else str(Searcher.FINISHED)
        if self.stop_reason:
            return str(Searcher.FINISHED)
        trial = self._guarded(lambda: ask_trial(self._study, self._config.search))
        if trial is None:
            self.stop("every point of the search has been tried")
            return str(Searcher.FINISHED)
        self._budget -= 1
        self._running[trial_id] = _RunningTrial(trial, dict(trial.params))
        self.numbers[trial_id] = trial.number
        self._guarded(lambda: self._claim(trial))
        return dict(trial.params)

    def _claim(self, trial: optuna.Trial) -> None:
        self.driver.claim(trial)
        trial.set_user_attr("folder", f"trials/{trial_folder_name(trial.number)}")
        trial.set_user_attr("seed", self._config.seed)
        if is_shared(self._config):
            trial.set_user_attr("home", self._home)
        # Before it runs, so that no other trial ever gets its number and folder.
        self._push()

    def _is_full(self) -> bool:
        """Whether the trials of all drivers are as many as wanted."""
        trials = self._guarded(lambda: records_of(self._study)) or []
        count = count_evaluated(trials) + sum(t.state == "RUNNING" for t in trials)
        return bool(count >= (self._config.study.trials or math.inf))

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        running = self._running.get(trial_id)
        if running is None or "failed" in result:
            return
        if "seeds" in result:
            running.values = [fmean(scores) for scores in zip(*result["seeds"], strict=True)]
            firsts = [scores[0] for scores in result["seeds"]]
            self._guarded(lambda: running.trial.set_user_attr("seeds", firsts))
        elif not self._add_evaluation(running, result):
            return
        self._guarded(lambda: self._write(running, result))

    def on_trial_complete(
        self, trial_id: str, result: Result | None = None, error: bool = False
    ) -> None:
        if result is not None:
            # The last result of a stopped trial comes only here, that of a finished one twice.
            self.on_trial_result(trial_id, result)
        running = self._running.pop(trial_id, None)
        if running is None:
            return
        result = result or {}
        if error or "failed" in result or running.values is None:
            self._fail(running.trial, result)
        elif result.get("finished"):
            self._tell(running.trial, values=running.values)
        else:
            self._tell(running.trial, state=TrialState.PRUNED)

    def _fail(self, trial: optuna.Trial, result: Result) -> None:
        """Record a failure; without a reason, Tune lost the process and could not restart it."""
        lost = "the trial's process was lost: killed, or out of memory"
        reason = result.get("failed", lost)
        self._guarded(lambda: trial.set_user_attr("reason", reason))
        self._tell(trial, state=TrialState.FAIL)
        if result.get("storage_lost"):
            # The next trial would fail, too.
            self.error = self.error or RunError(f"{self._study.study_name}: {reason}")
            self.stop(reason)
        elif reason == lost and self._restarts > 0:
            self._restarts -= 1
            self._budget += 1
        else:
            return
        self._guarded(lambda: requeue(self._study, trial.number, trial.params))

    def _add_evaluation(self, running: _RunningTrial, result: Result) -> bool:
        """Add a reported evaluation; False where it is not a new one."""
        scores = [result.get(o, math.nan) for o in self._config.objectives]
        # A loss may not be a number.
        if not all(map(math.isfinite, scores)):
            return False
        epoch = result["epoch"]
        params = {a: result.get(f"config/{a}", v) for a, v in running.params.items()}
        if params != running.params:
            # It copied another trial and perturbed its params; its own epochs are discarded.
            running.params = params
            running.schedule.append((epoch, params))
            running.evaluations = {e: s for e, s in running.evaluations.items() if e < epoch}
        # A restarted trial repeats the epochs after its last checkpoint.
        if epoch in running.evaluations:
            return False
        running.evaluations[epoch] = scores
        best = running.evaluations.get(result["best_epoch"], scores)
        running.values = [result["best"], *best[1:]]
        if self._display is not None:
            self._display.add_epoch(running.trial.number, epoch, scores[0])
        return True

    def _write(self, running: _RunningTrial, result: Result) -> None:
        trial, epoch = running.trial, result["epoch"]
        is_curve = len(self._config.objectives) == 1 and "seeds" not in result
        if is_curve and epoch not in running.reported:
            running.reported.add(epoch)
            trial.report(result[self.metric], step=epoch)
        attributes: dict[str, Any] = {
            "values": running.values,
            "evaluations": [[e, *scores] for e, scores in sorted(running.evaluations.items())],
            "epochs": max(running.evaluations, default=0),
            "seconds": result["seconds"],
            "worker": f"{result.get('hostname', '')}:{result.get('pid', '')}",
            "schedule": [*running.schedule],
            "checkpoint": result.get("checkpoint_dir_name"),
        }
        for name, value in attributes.items():
            if value and running.written.get(name) != value:
                running.written[name] = value
                trial.set_user_attr(name, value)

    def _tell(self, trial: optuna.Trial, **outcome: Any) -> None:
        self._guarded(lambda: self._study.tell(trial, skip_if_finished=True, **outcome))
        self.driver.release(trial)
        self._guarded(self._push)
        if self._display is not None and self._has_database:
            self._display.end_trial(record_of(self._study.get_trials(deepcopy=False)[trial.number]))

    def _guarded(self, operation: Callable[[], Any]) -> Any:
        """The result of a database operation; after an error None, and no new trial is started."""
        if not self._has_database:
            return None
        try:
            return guarded(operation, where=self._study.study_name)
        except UpdateFinishedTrialError:
            # Another driver took this one for dead, and will try the params again.
            return None
        except RunError as error:
            self._has_database, self.error = False, error
            self.stop(str(error))
            return None

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher for Tuner.restore, which is not used here.
        return {"numbers": self.numbers}

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the database has everything, and `open_study` resumes from it."""

    restore = save


def trial_folder_name(number: int) -> str:
    """The folder of a trial under the study's `trials/`."""
    return f"trial-{number:04d}"
