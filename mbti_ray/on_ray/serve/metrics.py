"""Metrics of the service for Ray's dashboard and Prometheus."""

import asyncio
from collections import Counter as Counts

from ray.util.metrics import Counter, Histogram

from mbti_ray.serving.batching import ForwardPass
from mbti_ray.serving.served_model import PredictResult, ServeCallback
from mbti_ray.typology import DIMENSIONS

# Their descriptions and labels.
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mbti_serve_tokens": ("real tokens that were read", ()),
    "mbti_serve_padded_tokens": ("tokens that were computed, padding included", ()),
    "mbti_serve_passes": ("forward passes", ()),
    "mbti_serve_windows": ("windows that were read", ()),
    "mbti_serve_errors": ("requests that got an error, by code", ("code",)),
    "mbti_serve_answers": ("requests that were answered, by bundle", ("bundle",)),
    "mbti_serve_predictions": (
        "predictions by dimension and pole; X where the bundle abstains",
        ("dimension", "pole"),
    ),
}
_STAGE_BOUNDS_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
_EXPORT_INTERVAL_S = 0.5


class ServeMetrics(ServeCallback):
    """The metrics of one replica; Ray adds the labels deployment and replica to each.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._counts: Counts[tuple[str, tuple[tuple[str, str], ...]]] = Counts()
        self._counters = {
            name: Counter(name, description=description, tag_keys=labels)
            for name, (description, labels) in _COUNTERS.items()
        }
        self._stage = Histogram(
            "mbti_serve_stage_seconds",
            description="seconds of a response by stage: tokenise, queue, forward",
            boundaries=_STAGE_BOUNDS_S,
            tag_keys=("stage",),
        )

    def on_forward(self, done: ForwardPass) -> None:
        self._count("mbti_serve_passes")
        self._count("mbti_serve_windows", done.windows)
        self._count("mbti_serve_tokens", done.tokens)
        self._count("mbti_serve_padded_tokens", done.padded_tokens)

    def on_result(self, result: PredictResult, bundle_id: str) -> None:
        self._count("mbti_serve_answers", bundle=bundle_id)
        for stage, seconds in vars(result.timing).items():
            self._stage.observe(seconds, tags={"stage": stage})
        for prediction in result.predictions:
            for dimension, pole in zip(DIMENSIONS, prediction.type, strict=True):
                self._count("mbti_serve_predictions", dimension=dimension.name, pole=pole)

    def on_error(self, code: str) -> None:
        """Counts an error response."""
        self._count("mbti_serve_errors", code=code)

    def _count(self, name: str, value: int = 1, **labels: str) -> None:
        # Adding to Ray's counters for each request costs more than parsing it.
        if not self._counts:
            asyncio.get_running_loop().call_later(_EXPORT_INTERVAL_S, self._export)
        self._counts[name, tuple(labels.items())] += value

    def _export(self) -> None:
        for (name, labels), value in self._counts.items():
            self._counters[name].inc(value, dict(labels))
        self._counts.clear()
