"""Make the pictures of README: a recording of the demo, the page with an answer, reports, badges.

    python docs/make_pictures.py [demo] [page] [reports] [badges]

The recording is the demo itself in a terminal of 100 x 24, replayed as an animated SVG in a light
and a dark version; waiting is shortened. The page is the service of the demo's best model, and the
reports are the demo's, in the system's Chromium. Needs the extra `test` (playwright, pyte), and no
other Ray on this machine.
"""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib.metadata import version
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyte
from make_screenshots import BROWSERS, FLAGS, SERVICE, answers, wait_for
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "pictures"
POSTS = (
    "Nothing beats silence and books.",
    "I think about theories and patterns, trust logic and evidence.",
    "I keep lists of my plans and deadlines.",
)

COLUMNS, LINES = 100, 24
# Still moments are shown for at most this long; the last picture stays longer.
_LONGEST_S, _LAST_S, _SPEED = 0.8, 4.0, 3.0
# What moves while nothing happens: a spinner and a clock.
_MOVING = re.compile("[\u2800-\u28ff]|\\d+:\\d\\d:\\d\\d")
_CELL_W, _CELL_H = 8.4, 18
_THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "frame": "#d0d7de"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "frame": "#30363d"},
}
_COLORS = {"red": "#cf222e", "green": "#1a7f37", "brown": "#9a6700", "blue": "#0969da",
           "magenta": "#8250df", "cyan": "#1b7c83"}  # fmt: skip

Frame = tuple[float, list[str]]


def main() -> None:
    wanted = set(sys.argv[1:]) or {"demo", "page", "reports", "badges"}
    IMAGES.mkdir(exist_ok=True)
    if "demo" in wanted:
        frames = list(record([sys.executable, "examples/demo.py"], "make demo"))
        for theme, colors in _THEMES.items():
            (IMAGES / f"demo-{theme}.svg").write_text(animation(frames, colors), "utf-8")
    if "page" in wanted:
        take_page()
    if "reports" in wanted:
        take_reports()
    if "badges" in wanted:
        make_badges()


def record(command: list[str], typed: str) -> Iterator[Frame]:
    """What the terminal shows while a command runs: seconds to show it, and its lines as SVG."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {typed}\r\n".encode())
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ |= {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
        os.execv(command[0], command)
    shown, since = lines_of(screen), time.monotonic()
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.25)
        try:
            data = os.read(terminal, 65536) if ready else b""
        except OSError:
            break
        if ready and not data:
            break
        stream.feed(data)
        now = lines_of(screen)
        if [_MOVING.sub("", line) for line in now] != [_MOVING.sub("", line) for line in shown]:
            yield min((time.monotonic() - since) / _SPEED, _LONGEST_S), shown
            shown, since = now, time.monotonic()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    yield _LAST_S, shown


def lines_of(screen: pyte.Screen) -> list[str]:
    """Each line of the terminal as tspans of one style."""
    lines = []
    for row in range(LINES):
        spans: list[tuple[tuple[str, bool], str]] = []
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            style = (cell.fg, cell.bold)
            if spans and spans[-1][0] == style:
                spans[-1] = (style, spans[-1][1] + cell.data)
            else:
                spans.append((style, cell.data))
        lines.append("".join(tspan(style, text) for style, text in spans).rstrip())
    return lines


def tspan(style: tuple[str, bool], text: str) -> str:
    color, bold = style
    fill = _COLORS.get(color) or (f"#{color}" if len(color) == 6 and color.isalnum() else None)
    attributes = (f' fill="{fill}"' if fill else "") + (' font-weight="bold"' if bold else "")
    return f"<tspan{attributes}>{escape(text)}</tspan>" if attributes else escape(text)


def animation(frames: list[Frame], colors: dict[str, str]) -> str:
    """The frames as one SVG that plays for ever, without script."""
    total = sum(seconds for seconds, _ in frames)
    width, height = COLUMNS * _CELL_W + 24, LINES * _CELL_H + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" '
        f'fill="{colors["ink"]}" role="img" aria-label="make demo in a terminal">',
        f'<rect width="100%" height="100%" rx="8" fill="{colors["paper"]}" '
        f'stroke="{colors["frame"]}"/>',
    ]
    for row in range(LINES):
        start = 0.0
        moments = [(seconds, lines[row]) for seconds, lines in frames]
        for line, group in groupby(moments, itemgetter(1)):
            end = start + sum(seconds for seconds, _ in group)
            if line:
                parts.append(
                    f'<text x="12" y="{24 + row * _CELL_H}" xml:space="preserve" '
                    f'visibility="hidden">{line}{_shown(start / total, end / total, total)}</text>'
                )
            start = end
    return "\n".join([*parts, "</svg>\n"])


def _shown(first: float, last: float, total: float) -> str:
    """Makes its parent visible between two shares of the whole."""
    times, values = f"0;{first:.4f};{min(last, 1):.4f}", "hidden;visible;hidden"
    return (
        f'<animate attributeName="visibility" dur="{total:.2f}s" repeatCount="indefinite" '
        f'calcMode="discrete" keyTimes="{times}" values="{values}"/>'
    )


@contextmanager
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def take_page() -> None:
    """The page with the answer to some posts, in both color schemes."""
    command = [sys.executable, "-m", "mbti_ray.serve", "runs/demo"]
    service = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(lambda: service.poll() is not None or answers(f"{SERVICE}/ready"), 120)
        with chromium() as browser:
            for theme in _THEMES:
                window = {"viewport": {"width": 1200, "height": 900}, "color_scheme": theme}
                page = browser.new_context(**window).new_page()
                page.goto(SERVICE)
                page.locator("#text").fill("\n\n".join(POSTS))
                page.locator("#text").press("Control+Enter")
                page.wait_for_timeout(4000)
                save(page, f"page-{theme}")
                if theme == "light":
                    page.get_by_role("button", name="Which words?").click()
                    page.locator("mark.word").first.wait_for()
                    page.locator("#reading").scroll_into_view_if_needed()
                    save(page, "words", shrink=2)
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)


def take_reports() -> None:
    """The reports of the demo's study and of its best run, as thumbnails."""
    with chromium() as browser:
        for name, place in {"study": "report.html", "report": "best/report.html"}.items():
            page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
            # Its commands name the folder of this checkout.
            text = (ROOT / "runs" / "demo" / place).read_text("utf-8")
            page.set_content(text.replace(f"{ROOT}/", ""))
            page.locator(".chart svg").first.wait_for()
            save(page, name, shrink=2)


def save(page: Page, name: str, *, shrink: int = 1) -> None:
    """The window as a small file."""
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB").reduce(shrink)
    picture = picture.quantize(96, dither=Image.Dither.NONE)
    picture.save(IMAGES / f"{name}.png", optimize=True)


def make_badges() -> None:
    """What pyproject.toml says, and the versions of the main libraries here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    badges = {"python": project["requires-python"], "license": project["license"]}
    badges |= {name: version(name).partition("+")[0] for name in ("ray", "torch")}
    for name, value in badges.items():
        left, right = 7 * len(name) + 12, 7 * len(value) + 12
        (IMAGES / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" '
            f'role="img" aria-label="{name}: {escape(value)}">'
            f'<rect width="{left + right}" height="20" rx="3" fill="#3557c7"/>'
            f'<path d="M3 0h{left - 3}v20h-{left - 3}a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#555"/>'
            '<g fill="#fff" text-anchor="middle" font-family="Verdana,sans-serif" font-size="11">'
            f'<text x="{left / 2}" y="14">{name}</text>'
            f'<text x="{left + right / 2}" y="14">{escape(value)}</text></g></svg>\n',
            "utf-8",
        )


if __name__ == "__main__":
    main()
