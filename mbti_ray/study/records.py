"""The record of a trial, read from Optuna's trial: plain values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import le, mul
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mbti_ray.config.schema import Monitor, mode_of

EVALUATED = (TrialState.COMPLETE.name, TrialState.PRUNED.name)


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study.

    Attributes:
        state: COMPLETE, PRUNED (stopped by the scheduler), FAIL, or RUNNING.
        values: The objectives at its best epoch, in their order; with several seeds their means.
            None if it was never evaluated.
        params: Value by dotted address, as suggested at its start.
        evaluations: An epoch and the objectives after it, oldest first.
        seconds: Time spent in optimizer steps.
        worker: Host and process that trained it.
        home: The study's folder, if others may run trials of the study too.
        folder: Below the study's folder.
        checkpoint: Name of the newest one, below the trial's folder.
        reason: Why it failed.
        imported: The study it was imported from; it was not run in this one.
        seeds: First objective by run, where it trained several: one for each seed and fold.
        schedule: From which epoch which params, where they changed during the trial.
        is_default: It tried the config without a search.
        retry_of: The trial whose params it tries again, because that one was interrupted.
    """

    number: int
    state: str
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    evaluations: list[list[float]] = field(default_factory=list)
    epochs: int = 0
    seconds: float = 0.0
    started: str | None = None
    ended: str | None = None
    worker: str | None = None
    home: str | None = None
    folder: str | None = None
    checkpoint: str | None = None
    reason: str | None = None
    imported: str | None = None
    seeds: list[float] | None = None
    schedule: list[list[Any]] | None = None
    is_default: bool = False
    retry_of: int | None = None

    @property
    def was_evaluated(self) -> bool:
        """Whether it has weights that may be chosen as the best."""
        return self.state in EVALUATED and self.values is not None and self.imported is None

    @property
    def last_params(self) -> dict[str, Any]:
        """The params that it ended with."""
        return dict(self.schedule[-1][1]) if self.schedule else self.params


_FIELDS = frozenset(TrialRecord.__dataclass_fields__)


def record_of(trial: FrozenTrial) -> TrialRecord:
    """The record of one of Optuna's trials."""
    attributes = {k: v for k, v in trial.user_attrs.items() if k in _FIELDS}
    if trial.state is TrialState.FAIL:
        # A killed process cannot record its reason.
        attributes.setdefault("reason", "the process that ran the study was killed")
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params=dict(trial.params),
        started=trial.datetime_start.isoformat() if trial.datetime_start else None,
        ended=trial.datetime_complete.isoformat() if trial.datetime_complete else None,
        **attributes,
    )


def records_of(study: optuna.Study) -> list[TrialRecord]:
    """All trials that were started, oldest first."""
    return [
        record_of(trial)
        for trial in study.get_trials(deepcopy=False)
        if trial.state is not TrialState.WAITING
    ]


def count_evaluated(records: Iterable[TrialRecord]) -> int:
    """Trials that were run here and completed, or were stopped by the scheduler."""
    return sum(r.state in EVALUATED and r.imported is None for r in records)


def best_of(records: Iterable[TrialRecord], objectives: Sequence[Monitor]) -> TrialRecord | None:
    """The trial that is best in the first objective, pruned or not; None if none is evaluated."""
    return next(iter(rank(records, objectives)), None)


def rank(records: Iterable[TrialRecord], objectives: Sequence[Monitor]) -> list[TrialRecord]:
    """The evaluated trials, the best in the first objective first; of equal ones the older."""
    costs = _costs(records, objectives)
    return [record for record, _ in sorted(costs, key=lambda c: (c[1][0], c[0].number))]


def pareto_front(
    records: Iterable[TrialRecord], objectives: Sequence[Monitor]
) -> list[TrialRecord]:
    """The Pareto front: trials that no other beats in one objective and equals in the rest."""
    costs = _costs(records, objectives)
    return [
        record
        for record, cost in costs
        if not any(other != cost and all(map(le, other, cost)) for _, other in costs)
    ]


def _costs(
    records: Iterable[TrialRecord], objectives: Sequence[Monitor]
) -> list[tuple[TrialRecord, list[float]]]:
    """The evaluated trials with their values, signed so that lower is better."""
    signs = [1 if mode_of(o) == "min" else -1 for o in objectives]
    return [
        (record, list(map(mul, signs, record.values or ())))
        for record in records
        if record.was_evaluated
    ]
