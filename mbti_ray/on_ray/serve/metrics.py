"""Metrics of the service for Ray's dashboard and Prometheus."""

import asyncio
from collections import defaultdict

from ray.util.metrics import Counter, Histogram

from mbti_ray.serving.batching import ForwardPass
from mbti_ray.serving.served_model import PredictResult, ServeCallback
from mbti_ray.typology import DIMENSIONS

_STAGE_BOUNDS_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
_EXPORT_INTERVAL_S = 0.5


class ServeMetrics(ServeCallback):
    """The metrics of one replica; Ray adds the labels deployment and replica to each.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[Counter, tuple[tuple[str, str], ...]], int] = defaultdict(int)
        self._stage = Histogram(
            "mbti_serve_stage_seconds",
            description="seconds of a response by stage: tokenise, queue, forward",
            boundaries=_STAGE_BOUNDS_S,
            tag_keys=("stage",),
        )
        self._tokens = Counter("mbti_serve_tokens", description="real tokens that were read")
        self._padded = Counter(
            "mbti_serve_padded_tokens", description="tokens that were computed, padding included"
        )
        self._passes = Counter("mbti_serve_passes", description="forward passes")
        self._windows = Counter("mbti_serve_windows", description="windows that were read")
        self._errors = Counter(
            "mbti_serve_errors",
            description="requests that got an error, by code",
            tag_keys=("code",),
        )
        self._answers = Counter(
            "mbti_serve_answers",
            description="requests that were answered, by bundle",
            tag_keys=("bundle",),
        )
        self._poles = Counter(
            "mbti_serve_predictions",
            description="predictions by dimension and pole; X where the bundle abstains",
            tag_keys=("dimension", "pole"),
        )

    def on_forward(self, done: ForwardPass) -> None:
        """Counts a forward pass."""
        self._count(self._passes)
        self._count(self._windows, done.windows)
        self._count(self._tokens, done.tokens)
        self._count(self._padded, done.padded_tokens)

    def on_result(self, result: PredictResult, bundle_id: str) -> None:
        """Counts an answered request and its predictions."""
        self._count(self._answers, bundle=bundle_id)
        for stage, seconds in vars(result.timing).items():
            self._stage.observe(seconds, tags={"stage": stage})
        for prediction in result.predictions:
            for dimension, pole in zip(DIMENSIONS, prediction.type, strict=True):
                self._count(self._poles, dimension=dimension.name, pole=pole)

    def on_error(self, code: str) -> None:
        """Counts an error response."""
        self._count(self._errors, code=code)

    def _count(self, counter: Counter, value: int = 1, **tags: str) -> None:
        # Adding to Ray's counters for each request costs more than parsing it.
        if not self._counts:
            asyncio.get_running_loop().call_later(_EXPORT_INTERVAL_S, self._export)
        self._counts[counter, tuple(tags.items())] += value

    def _export(self) -> None:
        for (counter, tags), value in self._counts.items():
            counter.inc(value, dict(tags))
        self._counts.clear()
