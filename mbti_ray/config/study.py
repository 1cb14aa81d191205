"""Every setting of a study, typed: the search space, the objective, the budget and the scheduler.

A study's config is that of a run with two more sections. Imports nothing heavy.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mbti_ray.config.schema import Monitor, RunConfig
from mbti_ray.config.section import ConfigSection, Count, Positive
from mbti_ray.errors import mask_secrets

Value = str | float | int | bool | None
# The condition of a range: values of other searched addresses.
When = dict[str, Value | tuple[Value, ...]]


class FloatRange(ConfigSection):
    """A float between two bounds, on a linear or logarithmic scale."""

    low: float
    high: float
    log: bool = False
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> "FloatRange":
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 for a log range, got {self.low}")
        return self


class IntRange(ConfigSection):
    """An integer between two bounds, both included."""

    int_low: int
    int_high: int
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> "IntRange":
        if not self.int_low < self.int_high:
            raise ValueError(f"int_low must be below int_high, got {self.int_low}, {self.int_high}")
        return self


class Choices(ConfigSection):
    """One of several values."""

    choices: Annotated[tuple[Value, ...], Field(min_length=2)]
    when: When = Field(default_factory=dict)


Range = FloatRange | IntRange | Choices


class StudyOptions(ConfigSection):
    """How a study searches."""

    trials: Count | None = 20
    """null: as many as study.hours allow"""
    hours: Positive | None = None
    """after this many hours no new trial starts; running ones are finished"""
    objective: (
        Monitor | Annotated[tuple[Monitor, ...], Field(min_length=2, max_length=4)] | None
    ) = None
    """null: fit.monitor; or several, of which the first selects the epoch"""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops poor trials; pbt makes them copy good ones (one worker)"""
    grace_epochs: Count = 1
    """epochs before a trial can be stopped, or between two perturbations"""
    reduction: Annotated[int, Field(ge=2)] = 3
    """the best 1 in this many continue at a rung"""
    startup_trials: Count = 5
    """random trials before TPE takes over"""
    seeds: Count = 1
    """seeds that each trial is trained with; its value is their mean"""
    max_concurrent: Count | None = None
    """null: as many as the cluster can run"""
    try_default: bool = True
    """the first trial is the config without a search"""
    start: tuple[dict[str, Value], ...] = ()
    """points to try first, each {address: value, ...} of searched addresses"""
    warm_start: tuple[str, ...] = ()
    """folders of earlier studies, whose trials the sampler learns from"""
    storage: str | None = None
    """of the study: null for SQLite in its folder, journal for a file there that works on shared
    folders, or the URL of a database"""

    @field_validator("storage")
    @classmethod
    def _has_no_secret(cls, storage: str | None) -> str | None:
        if storage and mask_secrets(storage) != storage:
            raise ValueError(
                "it contains a password, which would end up in config.yaml; leave it out and set "
                "PGPASSWORD or ~/.pgpass (PostgreSQL), or ?read_default_file=FILE (MySQL)"
            )
        return storage

    @model_validator(mode="after")
    def _ends_and_fits(self) -> "StudyOptions":
        if self.trials is None and self.hours is None:
            raise ValueError("study.trials=null needs study.hours, so that the study ends")
        objectives = self.objective if isinstance(self.objective, tuple) else ()
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"study.objective has a score twice: {', '.join(objectives)}")
        if self.scheduler == "pbt" and (objectives or self.seeds > 1):
            raise ValueError("study.scheduler=pbt takes one study.objective and study.seeds=1")
        if self.scheduler == "pbt" and self.trials is None:
            raise ValueError("study.scheduler=pbt needs study.trials, the size of its population")
        return self


class StudyConfig(RunConfig):
    """A run, and the search space over its settings."""

    study: StudyOptions = StudyOptions()
    search: dict[str, Range] = Field(default_factory=dict)
    """what is searched: a range or choices for each key"""

    @model_validator(mode="before")
    @classmethod
    def _searched_warmup_is_not_capped(cls, tree: Any) -> Any:
        """As in `OptimConfig`, where a warm-up is given."""
        found = tree if isinstance(tree, dict) else {}
        search, optim = found.get("search"), found.get("optim", {})
        if not (isinstance(search, dict) and isinstance(optim, dict)):
            return tree
        is_searched = "optim.warmup_steps" in search
        return found | {"optim": {"warmup_cap": None} | optim} if is_searched else tree

    @model_validator(mode="after")
    def _one_worker_where_needed(self) -> "StudyConfig":
        pbt, folds = self.study.scheduler == "pbt", self.data.trains_on_all
        if self.scaling.most > 1 and (pbt or folds or self.study.seeds > 1):
            raise ValueError(
                "study.scheduler=pbt, study.seeds above 1 and data.folds need scaling.workers=1: "
                "their trials train inside one actor"
            )
        if folds and self.study.scheduler != "none":
            raise ValueError(
                f"data.folds with study.scheduler={self.study.scheduler}: the epochs of one fold "
                "say too little to stop a trial; set study.scheduler=none"
            )
        return self

    @property
    def objectives(self) -> tuple[Monitor, ...]:
        """The objectives; the first selects the epoch of a trial that counts."""
        objective = self.study.objective or self.fit.monitor
        return (objective,) if isinstance(objective, str) else objective

    @property
    def objective(self) -> Monitor:
        return self.objectives[0]
