"""The bridge between Ray Tune and Optuna: the study on disk says what happened.

Optuna's ask and tell, one study per name in the study folder's database. A trial that runs to its
own end is COMPLETE, one that the scheduler stopped is PRUNED with its intermediate values, one
that crashed or diverged is FAIL. (Ray's own OptunaSearch records stopped trials as COMPLETE and
leaves NaN trials RUNNING; see docs/decisions.md.)

The database is also what a study is resumed from, so this searcher has no state of its own.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from mbti_ray.config import StudyConfig
from mbti_ray.config.schema import mode_of
from mbti_ray.engine.loop import is_finished
from mbti_ray.errors import RunError
from mbti_ray.study.records import TrialRecord, record_of
from mbti_ray.study.sampling import ask
from mbti_ray.study.store import give_back, kept, wait_again

# What a trial reports when it gave up for a reason that the user can mend.
FAILED = "failed"
# What a trial of several seeds reports at its end: the scores of each.
SEEDS = "seeds"

Result = dict[str, Any]
OnTrial = Callable[[TrialRecord], None]


@dataclass
class _Open:
    """A trial that runs: what it said so far."""

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
        budget: Trials to suggest.
        keep: Makes what the database says safe; called when a trial has begun and when it has
            ended. Without it, the database is where it is kept.
        on_trial: Called with each trial that has ended.

    Attributes:
        closed: Why no new trial begins any more; None while they do.
        trouble: What the user has to mend before the study can be kept on.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: StudyConfig,
        *,
        budget: float = math.inf,
        keep: Callable[[], None] = lambda: None,
        on_trial: OnTrial | None = None,
    ) -> None:
        super().__init__(metric=config.objective, mode=mode_of(config.objective))
        self._study = study
        self._config = config
        self._budget = budget
        self._restarts = config.failure.max_failures
        self._keep = keep
        self._on_trial = on_trial
        self._open: dict[str, _Open] = {}
        self._ends = math.inf
        if config.study.hours is not None:
            self._ends = time.monotonic() + 3600 * config.study.hours
        self.numbers: dict[str, int] = {}
        self.closed: str | None = None
        self.trouble: RunError | None = None

    def close(self, reason: str) -> None:
        """Begin no new trial; those that run come to their end."""
        self.closed = self.closed or reason

    def give_back_open(self) -> None:
        """The trials that run are cut off: they are FAIL, and a resumed study tries them again."""
        for running in self._open.values():
            running.trial.set_user_attr("reason", "cut off by Ctrl-C")
            give_back(self._study, running.trial.number, running.trial.params)
        self._open = {}

    def suggest(self, trial_id: str) -> Result | str | None:
        if time.monotonic() > self._ends:
            self.close(f"study.hours={self._config.study.hours:g} are over")
        if self._budget < 1 and not self.closed:
            # A trial that runs may be lost yet, and then its point is to be tried again.
            return None if self._open else str(Searcher.FINISHED)
        trial = None if self.closed else self._kept(lambda: ask(self._study, self._config.search))
        if trial is None:
            self.close("every point of the search has been tried")
            return str(Searcher.FINISHED)
        self._budget -= 1
        self._open[trial_id] = _Open(trial, dict(trial.params))
        number = self.numbers[trial_id] = trial.number
        self._kept(lambda: trial.set_user_attr("folder", f"trials/{trial_folder_name(number)}"))
        self._kept(lambda: trial.set_user_attr("seed", self._config.seed))
        # Before it runs, so that its number and its folder are never given to another trial.
        self._kept(self._keep)
        return dict(trial.params)

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        running = self._open.get(trial_id)
        if running is None or FAILED in result:
            return
        if SEEDS in result:
            running.values = [sum(seed) / len(seed) for seed in zip(*result[SEEDS], strict=True)]
            firsts = [scores[0] for scores in result[SEEDS]]
            self._kept(lambda: running.trial.set_user_attr("seeds", firsts))
        elif not self._note(running, result):
            return
        self._kept(lambda: self._write(running, result))

    def on_trial_complete(
        self, trial_id: str, result: Result | None = None, error: bool = False
    ) -> None:
        if result is not None:
            # A stopped trial's last result comes here only, that of a finished one a second time.
            self.on_trial_result(trial_id, result)
        running = self._open.pop(trial_id, None)
        if running is None:
            return
        trial = running.trial
        if error or result is None or FAILED in result or running.values is None:
            self._fail(trial, (result or {}).get(FAILED))
        elif is_finished(result):
            self._tell(trial, values=running.values)
        else:
            self._tell(trial, state=TrialState.PRUNED)

    def _fail(self, trial: optuna.Trial, reason: str | None) -> None:
        """Without a reason, the process was lost, and Tune could not restart it."""
        said = reason or "the trial's process was lost: killed, or out of memory"
        self._kept(lambda: trial.set_user_attr("reason", said))
        self._tell(trial, state=TrialState.FAIL)
        if reason is None and self._restarts > 0:
            self._restarts -= 1
            self._budget += 1
            self._kept(lambda: wait_again(self._study, trial.number, trial.params))

    def _note(self, running: _Open, result: Result) -> bool:
        """Take an evaluation in; False where there is nothing new in it."""
        scores: list[float] = [result.get(o, math.nan) for o in self._config.objectives]
        if not all(map(math.isfinite, scores)):
            return False
        epoch = int(result["epoch"])
        params = {a: result.get(f"config/{a}", v) for a, v in running.params.items()}
        if params != running.params:
            # Copied from another trial, with values of its own: what it had itself is gone.
            running.params = params
            running.schedule.append((epoch, params))
            running.evaluations = {e: s for e, s in running.evaluations.items() if e < epoch}
        # A restarted trial repeats what it had reported after its last checkpoint.
        if epoch in running.evaluations:
            return False
        running.evaluations[epoch] = scores
        best = running.evaluations.get(int(result["best_epoch"]), scores)
        running.values = [result["best"], *best[1:]]
        return True

    def _write(self, running: _Open, result: Result) -> None:
        trial = running.trial
        epoch = int(result["epoch"])
        is_curve = len(self._config.objectives) == 1 and SEEDS not in result
        if is_curve and epoch not in running.reported:
            running.reported.add(epoch)
            trial.report(result[self.metric], step=epoch)
        figures = {
            "values": running.values,
            "evaluations": [[e, *scores] for e, scores in sorted(running.evaluations.items())],
            "epochs": max(running.evaluations, default=0),
            "seconds": result["seconds"],
            "worker": f"{result.get('hostname', '')}:{result.get('pid', '')}",
        }
        if running.schedule:
            figures["schedule"] = running.schedule
        if result.get("checkpoint_dir_name"):
            figures["checkpoint"] = result["checkpoint_dir_name"]
        for name, value in figures.items():
            if running.written.get(name) != value:
                running.written[name] = value
                trial.set_user_attr(name, value)

    def _tell(self, trial: optuna.Trial, **outcome: Any) -> None:
        self._kept(lambda: self._study.tell(trial, **outcome))
        self._kept(self._keep)
        if self._on_trial is not None and self.trouble is None:
            self._on_trial(record_of(self._study.get_trials(deepcopy=False)[trial.number]))

    def _kept(self, do: Callable[[], Any]) -> Any:
        """What `do` answers; where the study cannot be kept, None, and the study is closed."""
        if self.trouble is not None:
            return None
        try:
            return kept(do, where=self._study.study_name)
        except RunError as error:
            self.trouble = error
            self.close(str(error))
            return None

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
