"""Access control: the API key, and which websites may use the service from a browser.

A browser lets any website send requests to a service on its user's own machine. Must not know what
is requested.
"""

import hashlib
import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.serving.schemas import APIError, ErrorCode


def key_digest(key: str) -> str:
    """The form in which a replica knows the API key: enough to check it, not enough to use it."""
    return hashlib.sha256(key.encode()).hexdigest()


# Preflight answers for the websites in serve.allow_origins.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "Content-Type", "X-Bundle-Id"],
    "expose_headers": ["Retry-After", "Server-Timing", "X-Bundle-Id"],
    "allow_private_network": True,
}


class AccessControl:
    """Decides who may use /predict and /info."""

    def __init__(self, config: ServeConfig, key_hash: str | None) -> None:
        self._key_hash = key_hash
        self._origins = config.allow_origins
        self._hosts = {urlsplit(origin).hostname for origin in config.allow_origins}
        # A website whose own name resolves to 127.0.0.1 has the same origin (DNS rebinding).
        self._checks_host = _is_loopback(config.host)

    def check(self, request: Request) -> None:
        """Raises APIError: FORBIDDEN for another website, UNAUTHORIZED without the key."""
        host = request.headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        is_known = not host or _is_loopback(name) or name in self._hosts
        if self._checks_host and not is_known:
            raise APIError(ErrorCode.FORBIDDEN, "this host name is not that of the service")
        if not self._is_same_site(request, host):
            raise APIError(ErrorCode.FORBIDDEN, "serve.allow_origins does not name this website")
        if self._key_hash is not None:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            # Compared as digests and in constant time: neither length nor prefix can be measured.
            is_valid = hmac.compare_digest(key_digest(key.strip()), self._key_hash)
            if scheme.lower() != "bearer" or not is_valid:
                raise APIError(ErrorCode.UNAUTHORIZED)

    def _is_same_site(self, request: Request, host: str) -> bool:
        """Programs send neither header; websites cannot forge them."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site in ("same-origin", "none") or origin in self._origins:
            return True
        # Without TLS, browsers send Sec-Fetch-Site only to loopback.
        return site is None and (origin is None or origin.partition("://")[2] == host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
