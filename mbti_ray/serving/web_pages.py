"""The web pages at / and /docs, with their Content-Security-Policy. Must not know models."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader


def add_pages(api: FastAPI, examples: Mapping[str, Any]) -> None:
    """Adds the page for people at /, and the API documentation with `examples` at /docs."""
    folder = Path(__file__).parent / "pages"
    found = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)
    page, docs = found.get_template("page.html").render(), found.get_template("docs.html")
    headers = _page_headers(page)

    @api.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page, headers=headers)

    @api.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def show_docs(request: Request) -> Response:
        html = docs.render(api.openapi(), host=request.url.netloc, examples=examples)
        return HTMLResponse(html, headers=_page_headers(html))


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
