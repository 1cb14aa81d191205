"""A headless Chromium for the tests of pages: fresh profile, nothing but loopback and files; and
the HTTP service on a port of its own, with bundles that were trained here.

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
from mbti_ray.config.schema import ServeConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.bundle import write_bundle
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.predictor import Predictor, compute_golden_logits
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.serving.app import build_api, key_digest
from mbti_ray.serving.router import Shelf
from mbti_ray.serving.served_model import Reader
from mbti_ray.serving.target import Wanted

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra: test)")

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_LOCAL = ("file:", "data:", "about:", "http://127.0.0.1:", "http://localhost:")
# Kept after the run, so that a person can look at what was tested; not committed.
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
    """Opens an address in a window of its own; the test fails if the page asks for the outside
    or writes an error to its console.

    Keyword arguments are those of a browser context, such as `color_scheme="dark"` or
    `viewport={"width": 360, "height": 740}`; `expected` is what the browser may complain about,
    such as `"status of 429"`.
    """
    contexts, trouble = [], []

    def open_it(
        address: str, *, expected: tuple[str, ...] = (), **settings: object
    ) -> "sync_api.Page":
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: r.url.startswith(_LOCAL) or trouble.append(f"asked {r.url}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "console",
            lambda m: (
                m.type == "error"
                and not any(e in m.text for e in expected)
                and trouble.append(m.text)
            ),
        )
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def read() -> Callable[..., None]:
    """Gives the page for people a text, or posts, and waits until all of its answer stands."""

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
    """Two bundles of one dataset: `scored` as a run leaves it, `plain` without a test."""
    # Beside another process that computes, two threads wait for each other most of the time.
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
        tokenizer=data.tokenizer,
        info=data.info,
        scores={},
        compute_golden_logits=compute_golden_logits,
    )
    return {"scored": folder.bundle, "plain": folder.path / "plain"}


@contextmanager
def _serving(shelf: Shelf, config: ServeConfig, key: str | None) -> Iterator[str]:
    api = build_api(shelf, config, key_hash=key_digest(key) if key else None)
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
    """Services without a cluster, each with a thread that computes."""

    def __init__(self, ends: ExitStack, bundle: Path) -> None:
        self._ends = ends
        self._bundle = bundle
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def __call__(
        self,
        *,
        wanted: Wanted | None = None,
        key: str | None = None,
        shelf: type[Shelf] = Shelf,
        **limits: object,
    ) -> str:
        """Starts one; its address.

        Args:
            wanted: What lies on the shelf.
            key: The API key.
            shelf: The class of the shelf.
            limits: As in `ServeConfig`.
        """
        config = ServeConfig.model_validate(limits)
        thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._ends.callback(thread.shutdown)

        def load(place: str, _: Reader | None) -> Reader:
            return Reader(Predictor.load(Path(place)), thread, config, tokens_per_s=1e5)

        loaded = shelf(load, wanted or Wanted(str(self._bundle)))
        url = self._ends.enter_context(_serving(loaded, config, key))
        self._threads[url] = thread
        return url

    @contextmanager
    def computing(self, url: str) -> Iterator[None]:
        """Until the end of the block, the service's thread has something else to compute."""
        end = threading.Event()
        self._threads[url].submit(end.wait)
        try:
            yield
        finally:
            end.set()


@pytest.fixture(scope="module")
def serve(bundles: dict[str, Path]) -> Iterator[Services]:
    """Starts the service, and ends it after the last test of the file."""
    with ExitStack() as ends:
        yield Services(ends, bundles["scored"])
