"""The web pages at / and /docs, with their Content-Security-Policy. Must not know models."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse


def add_pages(api: FastAPI) -> None:
    """Adds the page for people at / and the API documentation at /docs."""

    def page(name: str) -> Callable[[], Awaitable[Response]]:
        html = (files("mbti_ray.serving") / name).read_text(encoding="utf-8")
        headers = _page_headers(html)

        async def show() -> Response:
            return HTMLResponse(html, headers=headers)

        return show

    for path, name in (("/", "page.html"), ("/docs", "docs.html")):
        api.add_api_route(path, page(name), methods=["GET", "HEAD"], include_in_schema=False)


def _page_headers(html: str) -> dict[str, str]:
    """A page may run its own script and style and call its own service, and nothing else."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return {
        "Content-Security-Policy": f"default-src 'none'; script-src {hashes('script')}; "
        f"style-src {hashes('style')}; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # A page must match the version that serves it.
        "Cache-Control": "no-cache",
    }
