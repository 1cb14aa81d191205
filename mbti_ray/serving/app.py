"""The HTTP interface as a FastAPI application around anything that predicts.

Owns the routes, the limits and the status codes. Knows nothing of Ray, torch or bundles: a test
hands it a model of its own.
"""

import asyncio
import hashlib
import hmac
import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mbti_ray import __version__
from mbti_ray.config.schema import ServeConfig
from mbti_ray.serving.schemas import (
    Answer,
    ErrorBody,
    ErrorCode,
    Question,
    TextsRequest,
    UserRequest,
    WireError,
    parse_question,
    read_body,
)
from mbti_ray.serving.served_model import Answered, Timing
from mbti_ray.serving.web_pages import add_pages

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_EXAMPLES = {
    "one text": {"inputs": "I'd rather stay in with a good book."},
    "several texts": {"inputs": ["Party tonight, everyone is invited!", "Lists keep me sane."]},
    "one user, read whole": {"posts": ["First post.", "Second post.", "Third post."]},
    "and what each post adds": {"posts": ["First post.", "Second post."], "influence": True},
    "and what was hidden": {"inputs": "As an INTJ I'd rather read.", "explain": True},
}


_BUNDLE_HEADER = {
    "name": "X-Bundle-Id",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the id of the bundle that is to answer, where two are served",
}


class Model(Protocol):
    """What the routes need of a model; `reader.Reader` is one."""

    @property
    def bundle_id(self) -> str: ...

    async def answer(self, question: Question) -> Answered: ...

    def explain_masking(self, post: str) -> dict[str, Any]:
        """A post in clean Unicode and what of it is hidden, as `wire.ReadText`."""


class Models(Protocol):
    """The models that a service answers with; `shelf.Shelf` holds one or two."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def info(self) -> dict[str, Any]:
        """What is served: the bundle's id, its data and scores, and what stands beside it."""

    def choose(self, bundle_id: str | None, question: Question) -> Model:
        """The model for a question, or the one that was asked for.

        Raises:
            WireError: NOT_FOUND, for a bundle that is not served.
        """


class Door:
    """Counts the requests inside and turns away the ones that do not fit."""

    def __init__(self, places: int) -> None:
        self._free = places

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place inside.

        Raises:
            WireError: QUEUE_FULL.
        """
        if not self._free:
            raise WireError(ErrorCode.QUEUE_FULL, "busy: too many requests are inside")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def key_digest(key: str) -> str:
    """What a replica knows of the API key: enough to tell it, not enough to use it."""
    return hashlib.sha256(key.encode()).hexdigest()


def build_api(
    models: Models,
    config: ServeConfig,
    *,
    key_hash: str | None = None,
    count_error: Callable[[str], None] = lambda _: None,
) -> FastAPI:
    """The FastAPI application that answers with `models` within the limits of `config`.

    Args:
        key_hash: `key_digest` of the key that /predict and /info ask for; None asks for none.
        count_error: Told the code of every error that is answered.
    """
    # FastAPI's own documentation page loads scripts from elsewhere: /docs is a page of ours.
    api = FastAPI(
        title="mbti_ray",
        version=__version__,
        description="Four binary dimensions (E/I, S/N, T/F, J/P) read from text.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_error_handlers(api, count_error)
    add_pages(api)
    check = _key_check(key_hash)
    _add_predict(api, models, config, check)
    _add_state(api, models, check)
    return api


def _key_check(key_hash: str | None) -> Callable[[Request], None]:
    def check(request: Request) -> None:
        if key_hash is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Compared as digests and in constant time: neither length nor prefix can be measured.
        known = hmac.compare_digest(key_digest(key.strip()), key_hash)
        if scheme.lower() != "bearer" or not known:
            raise WireError(ErrorCode.UNAUTHORIZED)

    return check


def _add_error_handlers(api: FastAPI, count_error: Callable[[str], None]) -> None:
    async def on_wire_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, WireError)
        count_error(error.code.name.lower())
        return _error_response(error)

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {code.status: code for code in ErrorCode}
        code = known.get(error.status_code, ErrorCode.INVALID)
        count_error(code.name.lower())
        return _error_response(WireError(code), error.headers)

    api.add_exception_handler(WireError, on_wire_error)
    api.add_exception_handler(HTTPException, on_http_error)


def _error_response(error: WireError, headers: Any = None) -> Response:
    headers = dict(headers or {})
    if error.code in (ErrorCode.QUEUE_FULL, ErrorCode.NOT_READY):
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.as_dict(), error.code.status, headers)


def _add_state(api: FastAPI, models: Models, check: Callable[[Request], None]) -> None:
    async def health() -> dict[str, str]:
        """The process is alive and its event loop answers."""
        return {"status": "alive"}

    async def ready() -> dict[str, str]:
        """The model is loaded and warm, and it reproduced its golden texts."""
        if not models.is_ready:
            raise WireError(ErrorCode.NOT_READY)
        return {"status": "ready"}

    async def info(request: Request) -> dict[str, Any]:
        """Model, data, scores and versions of the bundle that is served."""
        check(request)
        return models.info

    api.add_api_route("/health", health)
    api.add_api_route("/ready", ready, responses=_documented(ErrorCode.NOT_READY))
    api.add_api_route("/info", info, responses=_documented(ErrorCode.UNAUTHORIZED))


def _add_predict(
    api: FastAPI, models: Models, config: ServeConfig, check: Callable[[Request], None]
) -> None:
    door = Door(config.max_queued)

    async def predict(request: Request) -> Response:
        """A type and four probabilities for each text, or for one user's posts read whole.

        The header X-Bundle-Id names the bundle that answered; in a request it asks for one of the
        two that may be served side by side. Server-Timing says in milliseconds how long the text
        took to tokenise, to wait for the model, and to be read by it.
        """
        check(request)
        if not models.is_ready:
            raise WireError(ErrorCode.NOT_READY)
        return await _answer(request, models, config, door)

    content = {
        "schema": {"oneOf": [m.model_json_schema() for m in (TextsRequest, UserRequest)]},
        "examples": {name: {"value": value} for name, value in _EXAMPLES.items()},
    }
    api.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        responses={
            200: {"model": Answer | list[Answer], "description": "a list is answered by a list"},
            **_documented(*ErrorCode),
        },
        openapi_extra={
            "parameters": [_BUNDLE_HEADER],
            "requestBody": {"required": True, "content": {"application/json": content}},
        },
    )


async def _answer(request: Request, models: Models, config: ServeConfig, door: Door) -> Response:
    """Reads, checks and answers a request within the deadline.

    A place is taken once the body is there: clients that are slow to send take nobody's.
    """
    try:
        async with asyncio.timeout(config.deadline_s):
            body = await read_body(request.stream(), max_bytes=config.max_body_bytes)
            question = parse_question(body, max_texts=config.max_texts)
            model = models.choose(request.headers.get("x-bundle-id"), question)
            with door.place():
                answered = await _unless_gone(request, _predict(model, question))
    except TimeoutError:
        message = f"no answer within {config.deadline_s:g} s"
        raise WireError(ErrorCode.TOO_SLOW, message) from None
    except ClientDisconnect:
        raise WireError(ErrorCode.NOT_JSON, "the client went away") from None
    answers = [prediction.as_dict() for prediction in answered.predictions]
    if question.influence:
        answers = [answers[0] | {"influence": _influence(*answers)}]
    if question.explain:
        for answer, posts in zip(answers, question.users, strict=False):
            answer["read"] = [model.explain_masking(post) for post in posts]
    return JSONResponse(
        answers[0] if question.single else answers,
        headers={
            "X-Bundle-Id": model.bundle_id,
            "Server-Timing": _server_timing(answered.timing),
        },
    )


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Answered]) -> Answered:
    """What `answer` gives; when the client hangs up first, it is cancelled.

    Raises:
        ClientDisconnect: The client hung up.
    """
    working = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _influence(all_posts: dict[str, Any], *without: dict[str, Any]) -> list[dict[str, float]]:
    full = all_posts["probabilities"]
    return [{k: p - less["probabilities"][k] for k, p in full.items()} for less in without]


def _server_timing(timing: Timing) -> str:
    return ", ".join(f"{name};dur={1000 * s:.2f}" for name, s in vars(timing).items())


async def _predict(model: Model, question: Question) -> Answered:
    try:
        return await model.answer(question)
    except WireError:
        raise
    except Exception as error:
        # The message of an exception may hold the user's text: only where it happened is logged.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("prediction failed with %s\n%s", type(error).__name__, frames)
        raise WireError(ErrorCode.INTERNAL) from None


def _documented(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    return {c.status: {"model": ErrorBody, "description": c.meaning} for c in codes}
