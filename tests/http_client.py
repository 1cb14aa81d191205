"""A client of the HTTP application without Ray, with a model that records what it is given.

Every response is checked against the published OpenAPI schema.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
from fastapi import FastAPI

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.inference.prediction import Prediction
from mbti_ray.serving.app import build_api
from mbti_ray.serving.schemas import (
    APIError,
    ErrorCode,
    PredictRequest,
)
from mbti_ray.serving.served_model import PredictResult, Timing

UNPUBLISHED = ("/", "/docs", "/openapi.json")
JSON_TYPE = {"Content-Type": "application/json"}
SCOPE: Any = {"type": "http", "headers": [(b"content-type", b"application/json")]}


@dataclass
class Echo:
    """A router and model in one, which waits for `gate` and records its calls.

    P(E) is a tenth of the number of posts.
    """

    bundle_id: str = "abc123"
    info: dict[str, Any] = field(default_factory=lambda: {"bundle_id": "abc123"})
    gate: asyncio.Event | None = None
    cancelled: int = 0
    calls: list[tuple[Sequence[Sequence[str]], bool]] = field(default_factory=list)

    def route(self, request: PredictRequest, bundle_id: str | None) -> "Echo":
        if bundle_id not in (None, self.bundle_id):
            raise APIError(ErrorCode.NOT_FOUND, "no such bundle")
        return self

    async def predict(self, request: PredictRequest) -> PredictResult:
        users = request.users
        self.calls.append((tuple(users), request.whole))
        if self.gate:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if "boom" in users[0]:
            raise RuntimeError(users[0])
        predictions = [
            Prediction(
                "INTJ",
                {"E": len(posts) / 10, "N": 0.9, "T": 0.9, "J": 0.9},
                truncated=False,
                windows=1,
            )
            for posts in users
        ]
        span = {"start": 0, "end": 1, "kind": "type"}
        masked = [[{"text": post, "hidden": [span]} for post in posts] for posts in users]
        timing = Timing(0.001, 0.25, 0.0125)
        return PredictResult(predictions, timing, masked if request.explain else None)


def build_client(model: Echo, **limits: Any) -> httpx.AsyncClient:
    return client_of(build_api(model, ServeConfig(**limits)))


def client_of(api: FastAPI) -> httpx.AsyncClient:
    """A client of an application that checks each response against its published schema."""
    published = api.openapi()

    async def check(response: httpx.Response) -> None:
        await response.aread()
        assert_matches_schema(response, published)

    return httpx.AsyncClient(
        transport=httpx.ASGITransport(api),
        base_url="http://localhost:8000",
        event_hooks={"response": [check]},
    )


def assert_matches_schema(response: httpx.Response, published: dict[str, Any]) -> None:
    """Raises unless a JSON body is exactly what openapi.json publishes for it."""
    if response.request.url.path in UNPUBLISHED or response.request.method in ("HEAD", "OPTIONS"):
        return
    method = response.request.method.lower()
    operation = published["paths"].get(response.request.url.path, {}).get(method)
    if operation is None:
        # An unknown path or method, so any published error must do.
        schema = {"$ref": "#/components/schemas/ErrorResponse"}
    else:
        content = operation["responses"][str(response.status_code)]["content"]
        schema = content["application/json"]["schema"]
    schemas = {
        name: {"additionalProperties": False, **model}
        for name, model in published["components"]["schemas"].items()
    }
    jsonschema.validate(response.json(), {**schema, "components": {"schemas": schemas}})


def post_predict(body: Any, model: Echo | None = None, **limits: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def post() -> httpx.Response:
        async with build_client(model or Echo(), **limits) as client:
            return await client.post("/predict", content=content, headers=JSON_TYPE)

    return asyncio.run(post())


def get(path: str, model: Echo | None = None, method: str = "GET") -> httpx.Response:
    async def fetch() -> httpx.Response:
        async with build_client(model or Echo()) as client:
            return await client.request(method, path)

    return asyncio.run(fetch())


def assert_is_error(response: httpx.Response, code: ErrorCode) -> str:
    assert response.status_code == code.status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["code"] == code.name.lower()
    return str(error["message"])
