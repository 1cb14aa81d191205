"""The record of a study that its page, its tables and its last line of output share.

Owns the shape; `study.summary` fills it from Optuna's trials, and `on_ray.tune` adds how it ran.
"""

from typing import Any, TypedDict

from mbti_ray.scores.findings import FindingRecord


class ObjectiveSummary(TypedDict):
    """A score that was optimized; `direction` is minimize or maximize."""

    name: str
    direction: str


class RungSummary(TypedDict):
    """A rung of successive halving.

    Attributes:
        epoch: After which trials are compared.
        reached, stopped: Numbers of trials.
        best: Of all that reached it; None without any.
        cut: The worst of those that continued; None without any.
    """

    epoch: int
    reached: int
    stopped: int
    best: float | None
    cut: float | None


class DefaultPoint(TypedDict):
    """The config without a search: value by address, and the trial that tried it, if any."""

    values: dict[str, Any]
    trial: int | None


class TrialsSummary(TypedDict):
    """What the trials of a study show.

    Attributes:
        search: The searched ranges by address, in plain form.
        trials: The fields of `study.records.TrialRecord`, by name.
        best: Number of the best trial; None where none was evaluated.
        front: Trials of the Pareto front; empty with one objective.
        best_values: The params that the best trial ended with.
        importances: Share of each address in the first objective's variance.
        importances_missing: Why there are none.
        counts: Trials by state, without imported ones.
    """

    name: str
    objectives: list[ObjectiveSummary]
    scheduler: str
    search: dict[str, Any]
    trials: list[dict[str, Any]]
    best: int | None
    front: list[int]
    default: DefaultPoint
    best_values: dict[str, Any]
    importances: dict[str, float]
    importances_missing: str | None
    rungs: list[RungSummary]
    counts: dict[str, int]
    elapsed_s: float
    findings: list[FindingRecord]


class StudySummary(TrialsSummary):
    """The same with how the study ran.

    Attributes:
        at_once: Trials that ran side by side.
        stopped_early: Why the study ended before its trials were done; None if it did not.
        bundle: Where the bundle comes from, as a sentence.
        command: What trains the best config again.
    """

    at_once: int
    stopped_early: str | None
    bundle: str
    command: str
