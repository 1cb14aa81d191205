"""The FastAPI application: routes, status codes, response headers.

The limits it enforces are in `admission`, the schemas in `schemas`. Must not know Ray, bundles or
how a model computes.
"""

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mbti_ray import __version__
from mbti_ray.config.schema import ServeConfig
from mbti_ray.serving.access import AccessControl
from mbti_ray.serving.admission import ConcurrencyLimiter
from mbti_ray.serving.router import Router
from mbti_ray.serving.schemas import (
    APIError,
    ErrorCode,
    ErrorResponse,
    PredictRequest,
    PredictResponse,
    TextsRequest,
    UserRequest,
    parse_request,
    read_json_body,
)
from mbti_ray.serving.served_model import PredictResult, ServedModel, Timing
from mbti_ray.serving.web_pages import add_pages

logger = logging.getLogger(__name__)

_EXAMPLES = {
    "one text": {"inputs": "I'd rather stay in with a good book."},
    "several texts": {"inputs": ["Party tonight, everyone is invited!", "Lists keep me sane."]},
    "one user, read whole": {"posts": ["First post.", "Second post.", "Third post."]},
    "with the influence of each post": {"posts": ["First.", "Second."], "influence": True},
    "with what was masked": {"inputs": "As an INTJ I'd rather read.", "explain": True},
}


_BUNDLE_HEADER = {
    "name": "X-Bundle-Id",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the id of the bundle that should answer, where two are served",
}


def build_api(
    router: Router,
    config: ServeConfig,
    *,
    key_hash: str | None = None,
    on_error: Callable[[str], None] = lambda _: None,
) -> FastAPI:
    """The FastAPI application that serves `router` within the limits of `config`.

    Args:
        key_hash: `access.key_digest` of the key for /predict and /info; None requires none.
        on_error: Called with the code of every error response.
    """
    # FastAPI's own documentation page loads scripts from other hosts: /docs is a page of ours.
    api = FastAPI(
        title="mbti_ray",
        version=__version__,
        description="Four binary dimensions (E/I, S/N, T/F, J/P) predicted from text.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_error_handlers(api, on_error)
    add_pages(api)
    access = AccessControl(config, key_hash)
    access.add_cors(api)
    _add_predict(api, router, config, access)
    _add_probes(api, router, access)
    return api


def _add_error_handlers(api: FastAPI, on_error: Callable[[str], None]) -> None:
    async def handle_api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, APIError)
        on_error(error.code.name.lower())
        return _error_response(error)

    async def handle_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {code.status: code for code in ErrorCode}
        code = codes.get(error.status_code, ErrorCode.INVALID)
        on_error(code.name.lower())
        return _error_response(APIError(code), error.headers)

    api.add_exception_handler(APIError, handle_api_error)
    api.add_exception_handler(HTTPException, handle_http_error)


def _error_response(error: APIError, headers: Any = None) -> Response:
    headers = dict(headers or {})
    if error.code is ErrorCode.QUEUE_FULL:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.as_dict(), error.code.status, headers)


def _add_probes(api: FastAPI, router: Router, access: AccessControl) -> None:
    async def health() -> dict[str, str]:
        """The process is alive and its event loop responds."""
        return {"status": "alive"}

    async def ready() -> dict[str, str]:
        """The model is loaded and warmed up, and it reproduced its golden texts.

        A replica answers only once that is true.
        """
        return {"status": "ready"}

    async def info(request: Request) -> dict[str, Any]:
        """Model, data, scores and versions of the bundle that is served."""
        access.check(request)
        return router.info

    api.add_api_route("/health", health)
    api.add_api_route("/ready", ready, responses=_error_responses(ErrorCode.NOT_READY))
    for path, probe in (("/health", health), ("/ready", ready)):
        api.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
    api.add_api_route(
        "/info", info, responses=_error_responses(ErrorCode.FORBIDDEN, ErrorCode.UNAUTHORIZED)
    )


def _add_predict(api: FastAPI, router: Router, config: ServeConfig, access: AccessControl) -> None:
    limiter = ConcurrencyLimiter(config.max_queued)

    async def predict(request: Request) -> Response:
        """A type and four probabilities for each text, or for one user's posts read whole.

        The response header X-Bundle-Id names the bundle that answered; in a request it selects one
        of the two bundles that may be served. Server-Timing gives the milliseconds spent
        tokenizing, waiting for the model, and in the model.
        """
        access.check(request)
        return await _handle_predict(request, router, config, limiter)

    content = {
        "schema": {"oneOf": [m.model_json_schema() for m in (TextsRequest, UserRequest)]},
        "examples": {name: {"value": value} for name, value in _EXAMPLES.items()},
    }
    api.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        responses={
            200: {
                "model": PredictResponse | list[PredictResponse],
                "description": "an object, or a list for a list of inputs",
            },
            **_error_responses(*ErrorCode),
        },
        openapi_extra={
            "parameters": [_BUNDLE_HEADER],
            "requestBody": {"required": True, "content": {"application/json": content}},
        },
    )


async def _handle_predict(
    request: Request, router: Router, config: ServeConfig, limiter: ConcurrencyLimiter
) -> Response:
    """Reads, validates and answers a request before the deadline.

    A slot is taken once the body has arrived, so clients that send slowly occupy none.
    """
    try:
        async with asyncio.timeout(config.deadline_s):
            body = await read_json_body(request, max_bytes=config.max_body_bytes)
            parsed = parse_request(body, max_texts=config.max_texts)
            model = router.route(parsed, request.headers.get("x-bundle-id"))
            with limiter.slot():
                result = await _cancel_on_disconnect(request, _run_model(model, parsed))
    except TimeoutError:
        message = f"no answer within {config.deadline_s:g} s"
        raise APIError(ErrorCode.TOO_SLOW, message) from None
    except ClientDisconnect:
        # Nobody receives it; the status is that of access logs, and no error of the table.
        return Response(status_code=499)
    predictions = [prediction.as_dict() for prediction in result.predictions]
    if isinstance(parsed, UserRequest) and parsed.influence:
        predictions = [predictions[0] | {"influence": _influence(*predictions)}]
    for prediction, masked in zip(predictions, result.masked or (), strict=False):
        prediction["read"] = masked
    return JSONResponse(
        predictions[0] if parsed.is_single else predictions,
        headers={
            "X-Bundle-Id": model.bundle_id,
            "Server-Timing": _server_timing(result.timing),
        },
    )


async def _cancel_on_disconnect(
    request: Request, prediction: Coroutine[Any, Any, PredictResult]
) -> PredictResult:
    """The result of `prediction`, which is cancelled if the client disconnects first.

    Raises:
        ClientDisconnect: The client disconnected.
    """
    computing = asyncio.ensure_future(prediction)
    disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((computing, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if not computing.done():
            raise ClientDisconnect
        return computing.result()
    finally:
        for task in (computing, disconnected):
            task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _influence(full: dict[str, Any], *without: dict[str, Any]) -> list[dict[str, float]]:
    """The probabilities of all posts minus those without each post."""
    all_posts = full["probabilities"]
    return [{k: p - less["probabilities"][k] for k, p in all_posts.items()} for less in without]


def _server_timing(timing: Timing) -> str:
    return ", ".join(f"{name};dur={1000 * s:.2f}" for name, s in vars(timing).items())


async def _run_model(model: ServedModel, request: PredictRequest) -> PredictResult:
    try:
        return await model.predict(request)
    except APIError:
        raise
    except Exception as error:
        # The message of an exception may contain the user's text: only the traceback is logged.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("prediction failed with %s\n%s", type(error).__name__, frames)
        raise APIError(ErrorCode.INTERNAL) from None


def _error_responses(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    return {c.status: {"model": ErrorResponse, "description": c.meaning} for c in codes}
