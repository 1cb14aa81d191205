"""The FastAPI application: routes, status codes, response headers.

The limits it enforces are in `admission`, the schemas in `schemas`. Must not know Ray, bundles or
how a model computes.
"""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from mbti_ray import __version__
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.serving.access import CORS, AccessControl
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
from mbti_ray.serving.served_model import PredictResult, ServedModel
from mbti_ray.serving.web_pages import add_pages

logger = logging.getLogger(__name__)

# Requests with what a small model answers, by what they show.
_EXAMPLES = json.loads((files("mbti_ray.serving") / "examples.json").read_text("utf-8"))

_BUNDLE_HEADER = {
    "name": "X-Bundle-Id",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the id of the bundle that should answer, where two are served",
}
_PREDICT_BODY: dict[str, Any] = {
    "schema": {"oneOf": [m.model_json_schema() for m in (TextsRequest, UserRequest)]},
    "examples": {name: {"value": example["request"]} for name, example in _EXAMPLES.items()},
}

_ANSWERS: dict[str, Any] = {
    "content": {
        "application/json": {
            "examples": {name: {"value": e["answer"]} for name, e in _EXAMPLES.items()}
        }
    }
}


def _error_responses(*codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    return {c.status: {"model": ErrorResponse, "description": c.meaning} for c in codes}


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
    access = AccessControl(config, key_hash)
    if config.allow_origins:
        api.add_middleware(CORSMiddleware, allow_origins=config.allow_origins, **CORS)
    limiter = ConcurrencyLimiter(config.max_queued)

    @api.exception_handler(APIError)
    async def handle_api_error(_: Request, error: APIError) -> Response:
        return _error_response(error, on_error)

    @api.exception_handler(HTTPException)
    async def handle_http_error(_: Request, error: HTTPException) -> Response:
        codes = {code.status: code for code in ErrorCode}
        code = codes.get(error.status_code, ErrorCode.INVALID)
        return _error_response(APIError(code), on_error, error.headers)

    async def predict(request: Request) -> Response:
        """A type and four probabilities for each text, or for one user's posts read whole.

        The response header X-Bundle-Id names the bundle that answered; in a request it selects one
        of the two bundles that may be served. Server-Timing gives the milliseconds spent
        tokenizing, waiting for the model, and in the model.
        """
        access.check(request)
        try:
            async with asyncio.timeout(config.deadline_s):
                body = await read_json_body(request, max_bytes=config.max_body_bytes)
                parsed = parse_request(body, max_texts=config.max_texts)
                model = router.route(parsed, request.headers.get("x-bundle-id"))
                # Only now, so that clients that send slowly occupy no slot.
                with limiter.slot():
                    async with _cancelled_on_disconnect(request):
                        return await _answer(model, parsed)
        except TimeoutError:
            message = f"no answer within {config.deadline_s:g} s"
            raise APIError(ErrorCode.TOO_SLOW, message) from None
        except ClientDisconnect:
            # Nobody receives it; access logs use this status for a closed connection.
            return Response(status_code=499)

    # First, because each request is matched with one route after the other.
    api.router.add_api_route(
        "/predict",
        predict,
        methods=["POST"],
        route_class_override=_ResponseRoute,
        response_model=PredictResponse | list[PredictResponse],
        response_description="an object, or a list for a list of inputs",
        responses={200: _ANSWERS, **_error_responses(*ErrorCode)},
        openapi_extra={
            "parameters": [_BUNDLE_HEADER],
            "requestBody": {"required": True, "content": {"application/json": _PREDICT_BODY}},
        },
    )
    add_pages(api, _EXAMPLES)

    @api.get("/health")
    @api.head("/health", include_in_schema=False)
    async def health() -> dict[str, str]:
        """The process is alive and its event loop responds."""
        return {"status": "alive"}

    @api.get("/ready", responses=_error_responses(ErrorCode.NOT_READY))
    @api.head("/ready", include_in_schema=False)
    async def ready() -> dict[str, str]:
        """The model is loaded and warmed up, and it reproduced its golden texts.

        A replica answers only once that is true.
        """
        return {"status": "ready"}

    @api.get("/info", responses=_error_responses(ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN))
    async def info(request: Request) -> dict[str, Any]:
        """Model, data, scores and versions of the bundle that is served."""
        access.check(request)
        return router.info

    return api


class _ResponseRoute(APIRoute):
    """A route whose endpoint takes the request and returns the response: nothing to resolve."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _error_response(
    error: APIError, on_error: Callable[[str], None], headers: Mapping[str, str] | None = None
) -> Response:
    on_error(error.code.name.lower())
    headers = dict(headers or {})
    if error.code is ErrorCode.QUEUE_FULL:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.as_dict(), error.code.status, headers)


def _predict_response(request: PredictRequest, result: PredictResult, bundle_id: str) -> Response:
    predictions = [prediction.as_dict() for prediction in result.predictions]
    if isinstance(request, UserRequest) and request.influence:
        full, *without = (prediction["probabilities"] for prediction in predictions)
        influence = [{pole: p - less[pole] for pole, p in full.items()} for less in without]
        predictions = [predictions[0] | {"influence": influence}]
    for prediction, masked in zip(predictions, result.masked or (), strict=False):
        prediction["read"] = masked
    timing = (f"{stage};dur={1000 * s:.2f}" for stage, s in vars(result.timing).items())
    return JSONResponse(
        predictions[0] if request.is_single else predictions,
        headers={"X-Bundle-Id": bundle_id, "Server-Timing": ", ".join(timing)},
    )


@asynccontextmanager
async def _cancelled_on_disconnect(request: Request) -> AsyncIterator[None]:
    """A block that is cancelled if the client disconnects before its end.

    Raises:
        ClientDisconnect: The client disconnected.
    """
    running = asyncio.current_task()
    assert running is not None
    is_disconnected = False

    async def wait_for_disconnect() -> None:
        nonlocal is_disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_disconnected = running.cancel()

    watching = asyncio.ensure_future(wait_for_disconnect())
    try:
        yield
    except asyncio.CancelledError:
        if is_disconnected and running.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


async def _answer(model: ServedModel, request: PredictRequest) -> Response:
    try:
        # JSON has no NaN, which a model may compute.
        return _predict_response(request, await model.predict(request), model.bundle_id)
    except APIError:
        raise
    except Exception as error:
        # The message of an exception may contain the user's text: only the traceback is logged.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("prediction failed with %s\n%s", type(error).__name__, frames)
        raise APIError(ErrorCode.INTERNAL) from None
