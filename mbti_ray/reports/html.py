"""Renders the templates: every page is one file that loads nothing, light and dark, any width.

Owns the script of the pages and their Content-Security-Policy. Must not know what a page shows.
"""

import base64
import hashlib
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mbti_ray.errors import StorageError
from mbti_ray.reports import wording
from mbti_ray.scores import names
from mbti_ray.scores.verdict import describe_paired
from mbti_ray.storage.atomic import write_text
from mbti_ray.storage.local_cache import user_cache_folder
from mbti_ray.typology import DIMENSIONS

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **shown: Any) -> str:
    """The page of a template; its Content-Security-Policy allows its own script and no request."""
    own = [(_TEMPLATES / name).read_text("utf-8") for name in ("charts.js", "page.js")]
    script = "\n".join([_chart_library(), *own])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:"
    )
    return render_text(template, **shown, script=script, policy=policy)


def render_text(template: str, **shown: Any) -> str:
    return _templates().get_template(template).render(shown)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: str(name).endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # No line break between a number and its unit.
    found.filters["unbroken"] = lambda text: str(text).replace(" %", "\N{NO-BREAK SPACE}%")
    found.filters |= {"short": wording.short, "plain": wording.plain}
    found.globals |= {"wording": wording, "names": names, "dimensions": DIMENSIONS}
    found.globals["describe_paired"] = describe_paired
    return found


def _chart_library() -> str:
    """Vega-Lite for browsers. Bundling it takes seconds, so this user's cache keeps it."""
    file = user_cache_folder() / "pages" / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError):
        return file.read_text("utf-8")
    # Of 80 MB: a model card is written without it, and a machine that only trains needs none.
    import vl_convert

    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    with suppress(OSError, StorageError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, library)
    return library


def write_page(path: Path, text: str) -> None:
    """Write a page; it appears whole, and replaces the one that was there."""
    # A lone surrogate in a column or file name must not cost the page.
    write_text(path, text, errors="replace")
