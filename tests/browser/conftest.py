"""A headless Chromium for the tests of pages: fresh profile, nothing but loopback and files.

Uses the Chromium of the system (Debian: `apt-get install chromium`); where there is none, or the
extra `test` is installed without playwright, these tests are skipped with the reason.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: test)")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_LOCAL = ("file:", "data:", "about:", "http://127.0.0.1:", "http://localhost:")
# Kept after the run, so that a person can look at what was tested; not committed.
SCREENSHOTS = Path(__file__).parents[2] / "test-screenshots"

OpenPage = Callable[..., "sync_api.Page"]


@pytest.fixture(scope="session")
def chromium() -> Iterator["sync_api.Browser"]:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser here; looked for {', '.join(_NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: "sync_api.Browser") -> Iterator[OpenPage]:
    """Opens an address in a window of its own; the test fails if the page asks for the outside
    or writes an error to its console.

    Keyword arguments are those of a browser context, such as `color_scheme="dark"` or
    `viewport={"width": 360, "height": 740}`.
    """
    contexts, trouble = [], []

    def open_it(address: str, **settings: object) -> "sync_api.Page":
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith(_LOCAL) or trouble.append(f"asked {r.url}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda m: m.type == "error" and trouble.append(m.text))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder where screenshots of the tested pages are kept."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS
