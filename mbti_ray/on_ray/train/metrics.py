"""Figures of runs and of the service for Ray's dashboard and Prometheus."""

from typing import Any

from ray.util.metrics import Gauge

from mbti_ray.engine.worker import Line

# By the metric's name: where its value stands in a report's line, and what it is.
_FIGURES = {
    "mbti_train_loss": (("train", "loss"), "training loss of the last epoch"),
    "mbti_train_accuracy": (("train", "acc_mean"), "training accuracy, mean of four dimensions"),
    "mbti_val_loss": (("val", "loss"), "validation loss"),
    "mbti_val_accuracy": (("val", "acc_mean"), "validation accuracy, mean of four dimensions"),
    "mbti_train_texts_per_second": (("speed", "texts_s"), "windows trained on a second"),
    "mbti_train_tokens_per_second": (("speed", "tokens_s"), "real tokens trained on a second"),
    "mbti_train_padding_share": (("speed", "padding"), "share of padding in what is computed"),
    "mbti_train_memory_mebibytes": (("speed", "memory_mib"), "the most that rank 0 held"),
}


class Gauges:
    """The gauges of one run or trial; rank 0 sets them at the end of each epoch."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Any] = {}

    def show(self, line: Line) -> None:
        """Set every gauge from a report's line."""
        for name, ((part, key), meaning) in _FIGURES.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, description=meaning, tag_keys=("run",))
            self._gauges[name].set(float(line[part][key]), tags=self._tags)
