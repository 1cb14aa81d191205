"""Ray leaves it to the application to notice that a client disconnects."""

import asyncio

import pytest
from ray.serve._private.http_util import parse_disconnect_disabled_header
from starlette.types import Receive, Scope, Send

from mbti_ray.on_ray.serve.disconnects import middleware

pytestmark = pytest.mark.integration


def test_ray_is_told_not_to_watch_a_request() -> None:
    watched: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watched.append(not parse_disconnect_disabled_header(dict(scope["headers"])))

    async def nothing(*_: object) -> None: ...

    scope = {"type": "http", "headers": [(b"host", b"localhost")]}
    for each in middleware():
        asyncio.run(each.cls(app, *each.args, **each.kwargs)(scope, nothing, nothing))
    assert watched == [False]
