"""Middleware in front of a replica: Ray need not watch each client, since `serving.app` does.

Ray would run each request in a task of its own beside one that waits for the client to disconnect.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

# As a client may say it; Ray 2.60 reads it in `parse_disconnect_disabled_header`.
_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class UnwatchedRequests:
    """Tells Ray that it need not watch for the disconnect of any client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], _UNWATCHED]
        await self._app(scope, receive, send)


def middleware() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH asks for."""
    return [Middleware(UnwatchedRequests)]
