"""What a worker reports to Ray, as one typed record with a flat form for Ray.

Train and Tune pass on flat dicts. Schedulers read the epoch and the objective from them; the
study's searcher reads from `Report` whether a trial is COMPLETE, PRUNED or FAIL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mbti_ray.engine.metrics_record import MetricsRecord

_FAILURE, _SEED_SCORES = "failed", "seeds"


@dataclass(frozen=True)
class Report:
    """The end of an epoch, or the end of a trial.

    Attributes:
        epoch: Counted from 1; 0 in the report of a failure.
        seconds: Training time since the start of the run.
        scores: Validation scores by name.
        best: Best value of the monitored score so far; None where no epoch was evaluated.
        best_epoch: The epoch that reached it.
        finished: The run has come to the end of its own plan: not stopped by a scheduler.
        seed_scores: The objectives' scores of each seed, where a trial trains several.
        failure: Why the trial failed, in one line.
        details: What Ray shows of a run besides: training scores, speed, steps.
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
    def of_epoch(cls, record: MetricsRecord, *, finished: bool | None = None) -> "Report":
        """The report of an epoch; `finished` overrides the record's."""
        fields = ("epoch", "seconds", "val", "train", "best", "best_epoch", "finished")
        details: dict[str, Any] = {
            f"train_{name}": value for name, value in record["train"].items()
        }
        details |= {name: value for name, value in record.items() if name not in fields}
        return cls(
            epoch=record["epoch"],
            seconds=record["seconds"],
            scores=record["val"],
            best=record["best"],
            best_epoch=record["best_epoch"],
            finished=record["finished"] if finished is None else finished,
            details=details,
        )

    def to_ray(self) -> dict[str, Any]:
        """The flat dict that `ray.train.report` and `ray.tune.report` take."""
        flat: dict[str, Any] = {**self.scores, **self.details}
        flat |= {"epoch": self.epoch, "seconds": self.seconds, "finished": self.finished}
        optional = {
            "best": self.best,
            "best_epoch": self.best_epoch,
            _SEED_SCORES: self.seed_scores,
            _FAILURE: self.failure,
        }
        return flat | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_ray(cls, result: Mapping[str, Any]) -> "Report":
        """The report in a result of Tune, which adds fields of its own to it."""
        own = ("epoch", "seconds", "finished", "best", "best_epoch", _SEED_SCORES, _FAILURE)
        return cls(
            epoch=int(result["epoch"]),
            seconds=float(result["seconds"]),
            scores={k: v for k, v in result.items() if k not in own and isinstance(v, float)},
            best=result.get("best"),
            best_epoch=result.get("best_epoch"),
            finished=bool(result.get("finished")),
            seed_scores=result.get(_SEED_SCORES),
            failure=result.get(_FAILURE),
        )
