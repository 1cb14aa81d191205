"""One loaded bundle behind its queues: a thread that tokenizes, one or two that run the model, and
one that makes predictions of its outputs.

They overlap, and none blocks the event loop. Must not know the routes, nor Ray.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import get_native_id
from typing import Any

import torch
from torch import Tensor

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.text import has_content
from mbti_ray.data.windows import EncodedRow, TokenIds
from mbti_ray.inference.prediction import Prediction
from mbti_ray.inference.predictor import Predictor, distinct_windows
from mbti_ray.serving.admission import ConcurrencyLimiter, check_wait
from mbti_ray.serving.batching import Batcher, Executors, ForwardPass
from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest
from mbti_ray.serving.text_queue import TextQueue
from mbti_ray.serving.word_explanations import Posts, Probabilities, explain_words
from mbti_ray.typology import POSITIVE_POLES

# Of a CPU with several cores, each with its share of the threads. Measured: two are faster.
_PASSES_AT_ONCE = 2
# A GPU needs larger passes to be fully used.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}

# What an explanation may read again, and how many texts it tokenizes before others have a turn.
MAX_TOKENS_AGAIN = 2**17
_USERS_AT_ONCE = 16


@dataclass(frozen=True)
class Timing:
    """Seconds from a request to its predictions: tokenization, waiting for the model, computation.

    The names are those of Server-Timing and of the Prometheus label `stage`.
    """

    tokenise: float
    queue: float
    forward: float


@dataclass(frozen=True)
class PredictResult:
    """Predictions in the order of a request's users, and where the time went."""

    predictions: Sequence[Prediction]
    timing: Timing
    # `Predictor.explain_masking` of each post, if the request asked for it.
    masked: list[list[dict[str, Any]]] | None = None


class ServeCallback:
    """Hooks of a served model; these do nothing."""

    def on_forward(self, done: ForwardPass) -> None:
        """After a forward pass."""

    def on_result(self, result: PredictResult, bundle_id: str) -> None:
        """After a request got its predictions."""


class ServedModel:
    """A predictor behind its queues; belongs to one event loop."""

    def __init__(
        self,
        predictor: Predictor,
        executors: Executors,
        config: ServeConfig,
        *,
        tokens_per_s: float,
        callback: ServeCallback | None = None,
    ) -> None:
        """`forward_executors` gives the threads of the forward passes, `warm_up` the speed."""
        self._callback = callback or ServeCallback()
        self.predictor = predictor
        self._tokenizer_queue = TextQueue("tokenize")
        # With a GPU it is the predictions of many texts that a request waits for.
        self._prediction_queue = TextQueue("predictions")
        self._batcher = Batcher(
            partial(_forward, predictor),
            executors,
            output_size=predictor.runtime.output_size,
            pads=predictor.runtime.pads,
            batch_tokens=_batch_tokens(predictor, config),
            # Of all threads; a pass that has a share of them is full earlier.
            min_efficient_tokens=predictor.runtime.min_efficient_tokens // max(executors),
            tokens_per_s=tokens_per_s,
            on_forward=self._callback.on_forward,
        )
        # For the layer among posts. It does not wait here behind the passes of a full queue.
        self._executor = executors[1]
        self._cache: OrderedDict[bytes, Prediction] = OrderedDict()
        self._config = config
        self._batch_tokens = _batch_tokens(predictor, config)
        # Of words one request at a time, since it takes many passes.
        self._explanations = ConcurrencyLimiter(1)

    @property
    def wait_s(self) -> float:
        """Estimated seconds that a text submitted now would wait."""
        queues = (self._tokenizer_queue, self._batcher, self._prediction_queue)
        return sum(queue.wait_s for queue in queues)

    @property
    def bundle_id(self) -> str:
        return self.predictor.bundle_id

    @property
    def info(self) -> dict[str, Any]:
        """The bundle's manifest and the runtime."""
        return self.predictor.info | {"runtime": self._config.runtime}

    async def predict(self, request: PredictRequest) -> PredictResult:
        """A prediction for each of a request's users; APIError QUEUE_FULL, INVALID or TOO_LARGE."""
        start = time.perf_counter()
        users = request.users
        keys: Sequence[Any] = users
        known: dict[Any, Prediction] = {}
        if self._config.cache:
            keys = [_cache_key(posts, whole=request.whole) for posts in users]
            known = {key: self._cache[key] for key in keys if key in self._cache}
        # Equal ones are computed once.
        missing = {key: posts for key, posts in zip(keys, users, strict=True) if key not in known}
        timing = Timing(0.0, 0.0, 0.0)
        if missing:
            computed, timing = await self._compute(request, list(missing.values()), start)
            known |= dict(zip(missing, computed, strict=True))
        if self._config.cache:
            self._store(known)
        predictions = [known[key] for key in keys]
        if not request.truncate:
            _refuse_truncated(request, predictions, self.predictor.max_tokens)
        masked = await self._explain_masking(request) if request.explain else None
        if masked and request.explain == "words":
            with self._explanations.slot():
                await explain_words(
                    request, masked, predictions, lambda users: self._ask_again(request, users)
                )
        result = PredictResult(predictions, timing, masked)
        self._callback.on_result(result, self.bundle_id)
        return result

    async def _compute(
        self, request: PredictRequest, users: Sequence[Posts], start: float
    ) -> tuple[list[Prediction], Timing]:
        # Before any work is done for a text that cannot be answered in time.
        check_wait(self.wait_s, max_wait_s=self._config.max_wait_s)
        rows, windows = await self._tokenizer_queue.run(lambda: self._encode(request, users), users)
        tokenized = time.perf_counter()
        check_wait(
            self._batcher.wait_s + self._prediction_queue.wait_s,
            max_wait_s=self._config.max_wait_s,
        )
        output = await self._batcher.compute(windows)
        if self.predictor.runtime.output_size > 2 * len(POSITIVE_POLES):
            # A layer among posts takes as long as a pass.
            loop = asyncio.get_running_loop()
            predictions = await loop.run_in_executor(
                self._executor, self._to_predictions, rows, output.values
            )
        else:
            predictions = await self._prediction_queue.run(
                lambda: self._to_predictions(rows, output.values), users
            )
        timing = Timing(
            tokenise=tokenized - start,
            queue=max(0.0, output.started - tokenized),
            forward=output.finished - output.started,
        )
        return predictions, timing

    def _to_predictions(self, rows: Sequence[EncodedRow], outputs: Tensor) -> list[Prediction]:
        return self.predictor.to_predictions(self.predictor.pool(rows, outputs))

    def _encode(
        self, request: PredictRequest, users: Sequence[Posts]
    ) -> tuple[list[EncodedRow], list[TokenIds]]:
        # In the tokenizer thread, because the text has to be cleaned to find out.
        texts = request.users[0] if request.whole else [posts[0] for posts in request.users]
        for place, text in enumerate(texts):
            if not has_content(text):
                raise APIError(ErrorCode.INVALID, f"{request.where(place)}: is empty")
        rows = self.predictor.encode(users, whole=request.whole)
        return rows, distinct_windows(rows)[0]

    async def _explain_masking(self, request: PredictRequest) -> list[list[dict[str, Any]]]:
        # With influence the users after the first repeat its posts.
        users = request.users[:1] if request.whole else request.users
        check_wait(self._tokenizer_queue.wait_s, max_wait_s=self._config.max_wait_s)
        explain = self.predictor.explain_masking
        return await self._tokenizer_queue.run(
            lambda: [[explain(post) for post in posts] for posts in users], users
        )

    async def _ask_again(
        self, request: PredictRequest, users: Sequence[Posts]
    ) -> list[Probabilities]:
        """The probabilities of further users, in parts, between which other requests are served."""
        run, predictor = self._tokenizer_queue.run, self.predictor
        rows: list[EncodedRow] = []
        for start in range(0, len(users), _USERS_AT_ONCE):
            part = users[start : start + _USERS_AT_ONCE]
            rows += await run(partial(predictor.encode, part, whole=request.whole), part)
        windows, _ = await run(lambda: distinct_windows(rows), ())
        tokens = [len(window) for window in windows]
        if sum(tokens) > MAX_TOKENS_AGAIN:
            raise APIError(
                ErrorCode.TOO_LARGE,
                f'"explain": "words" would read {sum(tokens):,} tokens again; allowed: '
                f"{MAX_TOKENS_AGAIN:,}; send less text",
            )
        at_once = max(1, self._batch_tokens // max(tokens, default=1))
        values = []
        for start in range(0, len(windows), at_once):
            check_wait(self._batcher.wait_s, max_wait_s=self._config.max_wait_s)
            output = await self._batcher.compute(windows[start : start + at_once])
            values.append(output.values)
        place_of = {tuple(window): place for place, window in enumerate(windows)}
        outputs = torch.cat(values) if values else torch.empty(0, 0)

        def predict_part(part: list[EncodedRow]) -> list[Prediction]:
            places = [place_of[tuple(window)] for window in distinct_windows(part)[0]]
            return self._to_predictions(part, outputs[places])

        found: list[Prediction] = []
        loop = asyncio.get_running_loop()
        for start in range(0, len(rows), _USERS_AT_ONCE):
            # A layer among posts takes as long as a pass.
            own = rows[start : start + _USERS_AT_ONCE]
            found += await loop.run_in_executor(self._executor, predict_part, own)
        return [prediction.probabilities for prediction in found]

    def _store(self, predictions: Mapping[bytes, Prediction]) -> None:
        """Caches predictions as the most recently used, and evicts the least recently used."""
        for key, prediction in predictions.items():
            self._cache[key] = prediction
            self._cache.move_to_end(key)
        while len(self._cache) > self._config.cache:
            self._cache.popitem(last=False)


def forward_executors(config: ServeConfig) -> dict[int, ThreadPoolExecutor]:
    """Threads for one pass with all cores, and on a CPU of several for two with half of them each.

    Each keeps its number of torch threads. Several that had all cores would slow each other down:
    OpenMP has threads for each of them, and with more threads than cores libgomp puts a thread to
    sleep at the end of every operation (a text of MiniLM took 15 ms instead of 8).
    """

    def begin(cpus: int) -> None:
        # Here only: each call throws away what oneDNN has compiled.
        torch.set_num_threads(cpus)
        # `top -H` and benchmarks/serve.py tell it, and the threads that it starts, from the others.
        with suppress(OSError):
            Path(f"/proc/self/task/{get_native_id()}/comm").write_text("forward")

    most = 1 if config.gpus else min(_PASSES_AT_ONCE, config.cpus)
    return {
        passes: ThreadPoolExecutor(passes, "forward", begin, (config.cpus // passes,))
        for passes in {1, most}
    }


def warm_up(predictor: Predictor, executors: Executors, config: ServeConfig) -> float:
    """Runs texts of every length; returns the real tokens per second of the largest passes.

    One pass at a time, so that a bundle that is being served keeps answering, and in the threads
    that will run the passes, because threads and memory are allocated there.
    """
    for executor in executors.values():
        for row in predictor.encode([[text] for text in predictor.warmup_texts()], whole=False):
            executor.submit(_forward, predictor, row.windows[:1]).result()
    length = min(64, predictor.max_tokens)
    windows: list[TokenIds] = [[1] * length] * max(1, _batch_tokens(predictor, config) // length)
    passes = max(executors)

    def measure_tokens_per_s() -> float:
        start = time.perf_counter()
        running = [executors[passes].submit(_forward, predictor, windows) for _ in range(passes)]
        for each in running:
            each.result()
        return passes * length * len(windows) / (time.perf_counter() - start)

    return max(measure_tokens_per_s() for _ in range(2))


def _forward(predictor: Predictor, windows: Sequence[TokenIds]) -> Tensor:
    """Outputs on the CPU: the copy waits for a GPU here, in a thread, not in the event loop."""
    return predictor.forward(windows).cpu()


def _batch_tokens(predictor: Predictor, config: ServeConfig) -> int:
    return config.batch_tokens or _BATCH_TOKENS[predictor.runtime.device.type]


def _cache_key(posts: Posts, *, whole: bool) -> bytes:
    """A digest, so that no text is kept in memory."""
    digest = hashlib.blake2b(b"whole" if whole else b"one", digest_size=16)
    for post in posts:
        text = post.encode()
        # No character separates them: a text may have any.
        digest.update(len(text).to_bytes(8) + text)
    return digest.digest()


def _refuse_truncated(
    request: PredictRequest, predictions: Sequence[Prediction], max_tokens: int
) -> None:
    for place, prediction in enumerate(predictions):
        if prediction.truncated:
            where = "posts" if request.whole else request.where(place)
            limit = f"{prediction.windows} x {max_tokens} tokens"
            message = f'{where}: exceeds the limit of {limit}; leave out "truncate": false'
            raise APIError(ErrorCode.TOO_LARGE, message)
