"""A headless Chromium for the page tests: a fresh profile, only loopback and files; and the HTTP
service on a port of its own, with bundles trained here.

Uses the Chromium of the system (Debian: `apt-get install chromium`); where there is none, or the
extra `test` is installed without playwright, these tests are skipped with the reason.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
import uvicorn

from mbti_ray.config import RunConfig
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.serving.access import key_digest
from mbti_ray.serving.app import build_api
from mbti_ray.serving.router import Router
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: test)")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_LOCAL = ("file:", "data:", "about:", "http://127.0.0.1:", "http://localhost:")
# Kept after the run for a person to look at; not committed.
SCREENSHOTS = Path(__file__).parents[2] / "test-screenshots"

OpenPage = Callable[..., "sync_api.Page"]


# Not for the whole session: while playwright runs, its thread can run no other event loop.
@pytest.fixture(scope="module")
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
    """Opens an address in a window of its own; the test fails if the page requests another host
    or logs an error to its console.

    Keyword arguments are those of a browser context, such as `color_scheme="dark"` or
    `viewport={"width": 360, "height": 740}`; `expected` lists the errors that the browser may log,
    such as `"status of 429"`.
    """
    contexts, errors = [], []

    def open_it(
        address: str, *, expected: tuple[str, ...] = (), **settings: object
    ) -> "sync_api.Page":
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith(_LOCAL) or errors.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda m: (
                m.type == "error"
                and not any(e in m.text for e in expected)
                and errors.append(m.text)
            ),
        )
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def read() -> Callable[..., None]:
    """Enters a text, or posts, into the page for people and waits for the complete result."""

    def read_it(page: "sync_api.Page", text: str, *, posts: bool = False) -> None:
        page.get_by_label("several posts" if posts else "one text").check()
        page.locator("#text").fill(text)
        with page.expect_response("**/predict"):
            page.get_by_role("button", name="Read it").click()
        page.locator("#answer[aria-busy=false] #reading").wait_for()
        if posts:
            page.locator(".pushes").last.wait_for()

    return read_it


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder where screenshots of the tested pages are kept."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS


@pytest.fixture(scope="session")
def bundles(
    quick: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two bundles of one dataset: `scored` as a run writes it, `plain` without test scores."""
    # On a shared machine two threads mostly wait for each other.
    torch.set_num_threads(1)
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    cache = tmp_path_factory.mktemp("cache")
    limits = ("model.max_tokens=32", "data.max_windows=4")
    scoring = (
        "scoring.threshold=balanced_accuracy",
        "scoring.abstain=0.08",
        "scoring.resamples=100",
    )
    scored = quick(*limits, *scoring)
    data = prepare_dataset(scored, cache)
    finalize_run(scored, data, run(scored, data, Worker()), folder)
    plain = quick(*limits, "fit.epochs=1", "seed=1")
    write_bundle(
        folder.path / "plain",
        config=plain,
        model=run(plain, data, Worker()).model,
        data=data,
        scores={},
    )
    return {"scored": folder.bundle, "plain": folder.path / "plain"}


@contextmanager
def _serving(router: Router, config: ServeConfig, key: str | None) -> Iterator[str]:
    api = build_api(router, config, key_hash=key_digest(key) if key else None)
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


class Services:
    """Services without a cluster, each with a thread that runs its model."""

    def __init__(self, ends: ExitStack, bundle: Path) -> None:
        self._ends = ends
        self._bundle = bundle
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def __call__(
        self,
        *,
        target: ServingTarget | None = None,
        key: str | None = None,
        **limits: object,
    ) -> str:
        """Starts one and returns its URL.

        Args:
            target: What it serves.
            key: The API key.
            limits: As in `ServeConfig`.
        """
        config = ServeConfig.model_validate(limits)
        thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._ends.callback(thread.shutdown)

        def load(location: str, _: ServedModel | None) -> ServedModel:
            return ServedModel(
                Predictor.load(Path(location)), {1: thread}, config, tokens_per_s=1e5
            )

        router = Router(load, target or ServingTarget(str(self._bundle)))
        url = self._ends.enter_context(_serving(router, config, key))
        self._threads[url] = thread
        return url

    @contextmanager
    def occupied(self, url: str) -> Iterator[None]:
        """Until the end of the block, the model's thread is busy."""
        end = threading.Event()
        self._threads[url].submit(end.wait)
        try:
            yield
        finally:
            end.set()


@pytest.fixture(scope="module")
def serve(bundles: dict[str, Path]) -> Iterator[Services]:
    """Starts services, which stop after the last test of the file."""
    with ExitStack() as ends:
        yield Services(ends, bundles["scored"])
