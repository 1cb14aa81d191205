"""One line of metrics.jsonl: the metrics of an epoch, and the file that keeps them.

Knows nothing of models, ranks or Ray.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from mbti_ray.storage.atomic import write_text


class MetricsRecord(TypedDict):
    """The metrics of one epoch; counts and seconds are since the start of the run.

    Attributes:
        epoch: Counted from 1.
        train: See `EpochStats.scores`.
        speed: See `ThroughputTimer.read`.
        val: Scores of the validation split.
        best: Best value of the monitored score so far, reached in `best_epoch`.
        finished: No epoch follows: all are done, or early stopping has decided.
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


def flatten_metrics(record: MetricsRecord) -> dict[str, float]:
    """The metrics of a record as train/loss, val/acc_mean, speed/texts_s and so on."""
    groups = {"train": record["train"], "val": record["val"], "speed": record["speed"]}
    return {f"{group}/{name}": v for group, values in groups.items() for name, v in values.items()}


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
    for line in path.read_text("utf-8").splitlines():
        with suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_text(path, "".join(kept))
