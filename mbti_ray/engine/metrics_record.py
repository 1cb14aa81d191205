"""One line of metrics.jsonl: what a run measured in an epoch, and the file that keeps it.

Knows nothing of models, ranks or Ray.
"""

import json
from pathlib import Path
from typing import Any, TypedDict


class MetricsRecord(TypedDict):
    """The metrics of one epoch, reported when its evaluation is done.

    Attributes:
        epoch: Counted from 1.
        step: Optimizer steps since the start of the run.
        train: Running means over the epoch's windows; see `EpochStats.scores`.
        val: Scores of the validation split; see `Counts.scores`.
        seconds: Time spent in optimizer steps since the start of the run.
        skipped_steps: Optimizer steps without an update since the start of the run.
        nonfinite_steps: Those of them whose loss was inf or nan.
        speed: Throughput, shares of the time and peak memory; see `ThroughputTimer.read`.
        best: Best value of the monitored score so far.
        best_epoch: The epoch that reached it.
        finished: Whether this is the last epoch: all are done, or early stopping has decided.
    """

    epoch: int
    step: int
    train: dict[str, float]
    seconds: float
    skipped_steps: int
    nonfinite_steps: int
    speed: dict[str, float]
    val: dict[str, float]
    best: float
    best_epoch: int
    finished: bool


def append_record(path: Path, record: MetricsRecord) -> None:
    """Append one JSON line to metrics.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def truncate_metrics_after(path: Path, step: int) -> None:
    """Drop the records after `step`, and a line that a crash left incomplete."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text("utf-8").splitlines():
        try:
            record: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(text + "\n")
    path.write_text("".join(kept), "utf-8")
