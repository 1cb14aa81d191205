"""What a worker reports to Ray, as one typed record with a flat form for Ray.

Train and Tune pass on flat dicts. Schedulers read the epoch and the objective from them; the
study's searcher reads from `Report` whether a trial is COMPLETE, PRUNED or FAIL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mbti_ray.engine.metrics_record import MetricsRecord

# The names in Ray's flat dict, and the fields that they hold.
_NAMES = {name: name for name in ("epoch", "seconds", "best", "best_epoch", "finished")}
_NAMES |= {"failed": "failure", "seeds": "seed_scores"}


@dataclass(frozen=True)
class Report:
    """The end of an epoch, or the end of a trial.

    Attributes:
        epoch: Counted from 1; 0 in the report of a failure.
        seconds: Training time since the start of the run.
        scores: Validation scores by name.
        best: Best value of the monitored score so far, reached in `best_epoch`.
        finished: The run has come to the end of its own plan: not stopped by a scheduler.
        seed_scores: The objectives' scores of each run, where a trial has several seeds or folds.
        failure: Why the trial failed, in one line.
        details: What else Ray shows of a run: training scores, speed, steps.
    """

    epoch: int
    seconds: float
    scores: Mapping[str, float]
    best: float | None = None
    best_epoch: int | None = None
    finished: bool = False
    seed_scores: Sequence[Sequence[float]] | None = None
    failure: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_epoch(cls, record: MetricsRecord) -> "Report":
        """The report of an epoch."""
        details: dict[str, Any] = dict(record)
        own = {k: details.pop(k) for k in ("epoch", "seconds", "best", "best_epoch", "finished")}
        scores = details.pop("val")
        details |= {f"train_{name}": value for name, value in details.pop("train").items()}
        return cls(**own, scores=scores, details=details)

    def to_ray(self) -> dict[str, Any]:
        """The flat dict that `ray.train.report` and `ray.tune.report` take."""
        own = {n: getattr(self, f) for n, f in _NAMES.items() if getattr(self, f) is not None}
        return {**self.scores, **self.details, **own}

    @classmethod
    def from_ray(cls, result: Mapping[str, Any]) -> "Report":
        """The report in a result of Tune, which adds fields of its own to it."""
        own = {field: result[name] for name, field in _NAMES.items() if name in result}
        scores = {k: v for k, v in result.items() if k not in _NAMES and isinstance(v, float)}
        # A report of a checkpoint alone has neither an epoch nor a time.
        return cls(**{"epoch": 0, "seconds": 0.0, **own}, scores=scores)
