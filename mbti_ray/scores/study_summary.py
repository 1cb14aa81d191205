"""The record of a study that its page, its tables and its last line of output share.

Owns the shape; `study.summary` fills it from Optuna's trials, and `on_ray.tune` adds how it ran.
"""

from typing import Any, TypedDict

from mbti_ray.scores.findings import FindingRecord


class RungSummary(TypedDict):
    """How many trials reached an epoch and stopped there, the best value of all, and the worst of
    those that continued (`cut`)."""

    epoch: int
    reached: int
    stopped: int
    best: float | None
    cut: float | None


class TrialsSummary(TypedDict):
    """What the trials of a study show.

    Attributes:
        objectives: Each with `name` and `direction`, minimize or maximize.
        search: The searched ranges by address, in plain form.
        trials: The fields of `study.records.TrialRecord`, by name.
        best, front: Numbers of trials: of the best, and of the Pareto front of several objectives.
        default: The config without a search: `values` by address, and the `trial` that tried it.
        best_values: The params that the best trial ended with.
        importances: Share of each address in the first objective's variance.
        counts: Trials by state, without imported ones.
    """

    name: str
    objectives: list[dict[str, str]]
    scheduler: str
    search: dict[str, Any]
    trials: list[dict[str, Any]]
    best: int | None
    front: list[int]
    default: dict[str, Any]
    best_values: dict[str, Any]
    importances: dict[str, float]
    importances_missing: str | None
    rungs: list[RungSummary]
    counts: dict[str, int]
    elapsed_s: float
    findings: list[FindingRecord]


class StudySummary(TrialsSummary):
    """The same with how the study ran, where its bundle is from, and what trains it again."""

    at_once: int
    stopped_early: str | None
    bundle: str
    command: str
