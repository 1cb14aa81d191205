"""What Ray learns of an epoch: a flat report, gauges for dashboard and Prometheus, a log line."""

import sys
from typing import Any

from ray.util.metrics import Gauge

from mbti_ray.engine.metrics_record import MetricsRecord, flatten_metrics

# By the name of the gauge: the name of the metric in `flatten_metrics`, and its description.
_GAUGES = {
    "mbti_train_loss": ("train/loss", "training loss of the last epoch"),
    "mbti_train_accuracy": ("train/acc_mean", "training accuracy, mean of four dimensions"),
    "mbti_val_loss": ("val/loss", "validation loss"),
    "mbti_val_accuracy": ("val/acc_mean", "validation accuracy, mean of four dimensions"),
    "mbti_train_texts_per_second": ("speed/texts_s", "windows trained on a second"),
    "mbti_train_tokens_per_second": ("speed/tokens_s", "tokens trained on a second"),
    "mbti_train_padding_share": ("speed/padding", "share of padding in the computed tokens"),
    "mbti_train_memory_mebibytes": ("speed/memory_mib", "peak memory of rank 0"),
}


def flat_report(record: MetricsRecord) -> dict[str, Any]:
    """A record as Ray takes it: validation scores by name, training scores after `train_`.

    Schedulers read the epoch and the objective, the searcher of a study also how far the run is.
    """
    report: dict[str, Any] = dict(record)
    scores, training = report.pop("val"), report.pop("train")
    return {**scores, **{f"train_{name}": score for name, score in training.items()}, **report}


class EpochLogger:
    """Shows the epochs of one run or trial, for rank 0."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def log(self, record: MetricsRecord) -> None:
        """Set every gauge, and log the main metrics, which the dashboard shows of this process."""
        metrics = flatten_metrics(record)
        for name, (metric, description) in _GAUGES.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, description=description, tag_keys=("run",))
            self._gauges[name].set(metrics[metric], tags={"run": self._run})
        # Not print, which Train redirects to its own logger.
        sys.stdout.write(
            f"{self._run} epoch {record['epoch']}: loss {metrics['train/loss']:.4f}, validation "
            f"loss {metrics['val/loss']:.4f}, accuracy {metrics['val/acc_mean']:.4f}\n"
        )
        sys.stdout.flush()
