"""Make docs/images: Ray's dashboard with a run, a study and a service of ours in it.

    python docs/make_screenshots.py

Starts a Ray of its own on the ports that the page names, trains, searches and serves the built-in
corpus in jobs as `ray job submit` sends them, and ends it all again. Needs playwright (extra
`test`), the system's Chromium, and no other Ray on this machine.
"""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DASHBOARD = "http://127.0.0.1:8265"
SERVICE = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
CONFIG = Path(__file__).parents[1] / "dashboards" / "prometheus.yml"
# A wide window whose picture is 1280 x 800: the tables are wide.
WINDOW = {"viewport": {"width": 1600, "height": 1000}, "device_scale_factor": 0.8}
COLOURS = 128

LONG = ["fit.epochs=400", "fit.patience=null", "scaling.cpus=1"]
# What runs, by the name that it is submitted under.
JOBS = {
    "first": ["mbti_ray.train", "quick", "name=first", "scaling.workers=2", "scaling.cpus=1"],
    "service": ["mbti_ray.serve", "runs/first"],
    "rates": ["mbti_ray.tune", "name=rates", "study.trials=40", "study.max_concurrent=2", *LONG],
    "long": ["mbti_ray.train", "quick", "name=long", *LONG],
}
# Of the study's trials, and of what was asked of the service.
QUERIES = [
    'max by (run, NodeAddress) (ray_mbti_val_accuracy{run=~"rates/.*"})',
    "sum(rate(ray_mbti_serve_answers_total[1m]))",
]

local = httpx.Client(trust_env=False, timeout=10)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        folder = Path(name)
        headers = ends.enter_context(ray_head(folder))
        submit("first")
        wait_for(lambda: status(headers, "first") == "SUCCEEDED", 180)
        submit("service")
        wait_for(lambda: answers(f"{SERVICE}/ready"), 120)
        has_prometheus = ends.enter_context(prometheus(folder))
        submit("rates")
        # As from a shell.
        os.environ["RAY_ADDRESS"] = "127.0.0.1:6379"
        ends.enter_context(child(["python", "-m", *JOBS["long"]], folder))
        wait_for(lambda: len(trials_of(headers, "rates")) == 2, 120)
        ask_for(90)
        path = next(filter(None, map(shutil.which, BROWSERS)))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            take_all(browser.new_context(**WINDOW, extra_http_headers=headers).new_page())
            if has_prometheus:
                take_prometheus(browser.new_context(**WINDOW).new_page())
            browser.close()
        print(local.get(f"{DASHBOARD}/api/train/v2/runs/v1", headers=headers).text)


def take_all(page: Page) -> None:
    go(page, "jobs")
    page.get_by_text("train long").first.wait_for()
    keep(page, "jobs")
    go(page, "actors")
    page.get_by_label("repr").fill("rates")
    page.get_by_text("TOTAL x 2").wait_for()
    keep(page, "trials")
    page.locator("tbody a").first.click()
    read_log(page, "rates/trials/")
    keep(page, "trial")
    go(page, "actors")
    page.get_by_label("Class").fill("RayTrainWorker")
    page.get_by_role("row", name="ALIVE").locator("a").first.click()
    read_log(page, "long epoch")
    keep(page, "run")
    go(page, "serve")
    page.get_by_text("HEALTHY").last.wait_for()
    keep(page, "serve")
    go(page, "serve/applications/mbti/mbti")
    page.locator("tbody a").first.click()
    page.get_by_text("/predict").first.wait_for()
    keep(page, "requests")
    go(page, "cluster")
    page.get_by_text("ALIVE").last.wait_for()
    keep(page, "nodes")


def take_prometheus(page: Page) -> None:
    graphs = {
        f"g{place}.{key}": value
        for place, query in enumerate(QUERIES)
        for key, value in {"expr": query, "tab": "0", "range_input": "5m"}.items()
    }
    page.goto(f"{PROMETHEUS}/graph?{urlencode(graphs)}")
    page.wait_for_load_state("networkidle")
    keep(page, "prometheus")


def go(page: Page, route: str) -> None:
    # A new document, so that nothing of the page before is on it.
    page.goto("about:blank")
    page.goto(f"{DASHBOARD}/#/{route}")


def read_log(page: Page, text: str) -> None:
    page.get_by_role("tab", name="STDOUT").click()
    page.get_by_text(text).first.wait_for()


def keep(page: Page, name: str) -> None:
    """The window as a small file."""
    page.wait_for_timeout(1000)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture = picture.quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(IMAGES / f"{name}.png", optimize=True)


def ask_for(seconds: float) -> None:
    """Asks the service, now and then something that it refuses."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += 1
        key = "inputs" if count % 20 else "input"
        local.post(f"{SERVICE}/predict", json={key: f"a quiet evening, number {count}"})
        time.sleep(0.2)


@contextmanager
def ray_head(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray in this folder; gives what the dashboard wants to be asked with."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=5", "--disable-usage-stats"]
    command += ["--dashboard-host=127.0.0.1", "--metrics-export-port=8080"]
    with child(command, folder):
        wait_for(lambda: answers(f"{DASHBOARD}/api/version"), 60)
        yield {"Authorization": f"Bearer {token.read_text()}"}


@contextmanager
def prometheus(folder: Path) -> Iterator[bool]:
    """Prometheus as the page configures it, where there is one."""
    if not shutil.which("prometheus"):
        print("no prometheus on PATH: its picture stays as it is", file=sys.stderr)
        yield False
        return
    command = ["prometheus", f"--config.file={CONFIG}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with child([*command, f"--web.listen-address={PROMETHEUS.rpartition('/')[2]}"], folder):
        yield True


@contextmanager
def child(command: list[str], folder: Path) -> Iterator[None]:
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def submit(name: str) -> None:
    command = ["ray", "job", "submit", "--address", DASHBOARD, "--no-wait", "--submission-id", name]
    subprocess.run([*command, "--", "python", "-m", *JOBS[name]], check=True)


def status(headers: dict[str, str], name: str) -> str:
    return str(local.get(f"{DASHBOARD}/api/jobs/{name}", headers=headers).json()["status"])


def trials_of(headers: dict[str, str], study: str) -> list[dict[str, object]]:
    """The actors that train its trials."""
    answer = local.get(f"{DASHBOARD}/logical/actors", headers=headers).json()
    actors = answer["data"]["actors"].values()
    return [a for a in actors if a["reprName"] == study and a["state"] == "ALIVE"]


def answers(url: str) -> bool:
    try:
        return local.get(url).status_code < 500
    except httpx.TransportError:
        return False


def wait_for(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing after {seconds:g} s")
        time.sleep(1)


if __name__ == "__main__":
    main()
