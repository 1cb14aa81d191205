"""One loaded bundle answering questions: a thread that tokenises, a queue, a thread that computes.

Tokenising and computing overlap, and neither holds up the event loop. Knows nothing of HTTP's
routes or of Ray.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch

from mbti_ray.config.schema import ServeConfig
from mbti_ray.data.windows import TokenIds
from mbti_ray.inference.predictor import Prediction, Predictor, pool_windows
from mbti_ray.serving.batching import Batcher, Pass, QueueFullError
from mbti_ray.serving.schemas import ErrorCode, Question, WireError
from mbti_ray.serving.tokenizer_queue import Tokenising

# A pass this long is timed before the service is ready: the speed that waiting is judged by.
_TIMED_WINDOWS = 16
# A pass on a GPU has to be larger to fill it.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}

Posts = tuple[str, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds from a question to its answer: tokenised, waited for the model, computed."""

    tokenise: float
    queue: float
    forward: float


@dataclass(frozen=True)
class Answered:
    """Predictions in the order of a question's users, and where the time went."""

    predictions: Sequence[Prediction]
    timing: Timing


class Watcher:
    """Told of all that a reader does; this one does not care."""

    def count_pass(self, done: Pass) -> None:
        """A forward pass."""

    def count_answer(self, answered: Answered, bundle_id: str) -> None:
        """A question that was answered, and by which bundle."""


class Reader:
    """A predictor behind a queue; belongs to one event loop."""

    def __init__(
        self,
        predictor: Predictor,
        executor: Executor,
        config: ServeConfig,
        *,
        tokens_per_s: float,
        watcher: Watcher | None = None,
    ) -> None:
        """
        Args:
            executor: One thread, in which every forward pass runs.
            tokens_per_s: As `warm_up` measured it.
        """
        self._watcher = watcher or Watcher()
        self.predictor = predictor
        self._tokenising = Tokenising(predictor)
        self._queue = Batcher(
            predictor.forward,
            executor,
            batch_tokens=config.batch_tokens or _BATCH_TOKENS[predictor.device.type],
            min_efficient_tokens=predictor.min_efficient_tokens,
            max_wait_s=config.max_wait_s,
            tokens_per_s=tokens_per_s,
            observe=self._watcher.count_pass,
        )
        self._known: OrderedDict[bytes, Prediction] = OrderedDict()
        self._config = config

    @property
    def wait_s(self) -> float:
        """How long a text that came now would wait, as far as can be told."""
        return self._tokenising.wait_s + self._queue.wait_s

    @property
    def bundle_id(self) -> str:
        return self.predictor.bundle_id

    @property
    def info(self) -> dict[str, Any]:
        """What the bundle says of itself, and what computes."""
        return self.predictor.info | {"runtime": self._config.runtime}

    def explain_masking(self, post: str) -> dict[str, Any]:
        """What the model reads of a post; see `Predictor.reading`."""
        return self.predictor.explain_masking(post)

    async def answer(self, question: Question) -> Answered:
        """A prediction for each of a question's users.

        Raises:
            WireError: QUEUE_FULL, or TOO_LARGE for a text that must not be truncated.
        """
        start = time.perf_counter()
        keys = [_key(posts, whole=question.whole) for posts in question.users]
        found = [self._recall(key) for key in keys]
        missing = [i for i, prediction in enumerate(found) if prediction is None]
        made: list[Prediction] = []
        timing = Timing(0.0, 0.0, 0.0)
        if missing:
            users = [question.users[i] for i in missing]
            made, timing = await self._read(users, whole=question.whole, start=start)
        for i, prediction in zip(missing, made, strict=True):
            self._keep(keys[i], prediction)
            found[i] = prediction
        predictions = [prediction for prediction in found if prediction is not None]
        if not question.truncate:
            _check_none_truncated(predictions, self.predictor.max_tokens)
        answered = Answered(predictions, timing)
        self._watcher.count_answer(answered, self.bundle_id)
        return answered

    async def _read(
        self, users: Sequence[Posts], *, whole: bool, start: float
    ) -> tuple[list[Prediction], Timing]:
        # Before anything is done for a text that cannot be read in time.
        if self.wait_s > self._config.max_wait_s:
            raise _busy(self.wait_s)
        packed = await self._tokenising.encode(users, whole=whole)
        tokenised = time.perf_counter()
        try:
            done = await self._queue.read([w for row in packed for w in row.windows])
        except QueueFullError as error:
            raise _busy(error.wait_s) from None
        predictions = self.predictor.to_predictions(pool_windows(packed, done.logits))
        timing = Timing(
            tokenised - start, max(0.0, done.began - tokenised), done.ended - done.began
        )
        return predictions, timing

    def _recall(self, key: bytes) -> Prediction | None:
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def _keep(self, key: bytes, prediction: Prediction) -> None:
        if self._config.cache:
            self._known[key] = prediction
            while len(self._known) > self._config.cache:
                self._known.popitem(last=False)


def warm_up(predictor: Predictor, executor: Executor) -> float:
    """Runs texts of every length; real tokens a second of a pass as large as a full queue's.

    In small portions, so that a bundle that is served meanwhile goes on answering; and where the
    passes will run, since threads and memory are made there.
    """
    for text in predictor.warmup_texts():
        executor.submit(predictor.predict, [[text]], whole=False).result()
    windows: list[TokenIds] = [[1] * min(64, predictor.max_tokens)] * _TIMED_WINDOWS
    return max(executor.submit(_speed, predictor, windows).result() for _ in range(2))


def _speed(predictor: Predictor, windows: Sequence[TokenIds]) -> float:
    start = time.perf_counter()
    predictor.forward(windows)
    if predictor.device.type == "cuda":
        torch.cuda.synchronize()
    return sum(map(len, windows)) / (time.perf_counter() - start)


def _busy(wait_s: float) -> WireError:
    return WireError(
        ErrorCode.QUEUE_FULL,
        f"busy: an answer would take {wait_s:.0f} s",
        retry_after_s=max(1, round(wait_s)),
    )


def _key(posts: Posts, *, whole: bool) -> bytes:
    """What an answer is kept under: no text stays in memory."""
    digest = hashlib.blake2b(b"whole" if whole else b"one", digest_size=16)
    for post in posts:
        digest.update(b"\0" + post.encode())
    return digest.digest()


def _check_none_truncated(predictions: Sequence[Prediction], max_tokens: int) -> None:
    for place, prediction in enumerate(predictions):
        if prediction.truncated:
            raise WireError(
                ErrorCode.TOO_LARGE,
                f"inputs[{place}]: has more than {max_tokens} tokens, which the model does not "
                'read; leave out "truncate": false, or send it as posts',
            )
