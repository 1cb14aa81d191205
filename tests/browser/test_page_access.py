"""The page for people for everybody: by keyboard, by ear, on a phone, light and dark, unwatched."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra: test")

# What axe looks for; dark differs by its colors alone.
WRONG = {"resultTypes": ["violations"]}
CHECKS = {"light": WRONG, "dark": WRONG | {"runOnly": ["color-contrast"]}}
STILL = {"reduced_motion": "reduce"}
TEXT = "As an INTJ I keep lists."
POSTS = "I keep lists.\n\nTypical ENFP, see www.example.org\n\nA quiet evening with novels."
# Text needs 4.5 to 1, what must be seen but not read 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11).
READ = [("ink", "paper"), ("ink", "card"), ("ink", "wash"), ("soft", "paper"), ("soft", "card")]
READ += [("soft", "wash"), ("mark", "paper"), ("mark", "card"), ("alarm", "paper")]
READ += [("on-mark", "mark")]
SEEN = [("mark", "track"), ("edge", "card"), ("edge", "paper"), ("ink", "track"), ("mark", "card")]


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve()


def luminance(color: str) -> float:
    digits = color.strip().removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    shares = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_enough_contrast(url: str, open_page: Any, scheme: str) -> None:
    page = open_page(url, color_scheme=scheme)

    def color(name: str) -> str:
        script = "n => getComputedStyle(document.documentElement).getPropertyValue('--' + n)"
        return str(page.evaluate(script, name))

    assert contrast("#fff", "#000") == pytest.approx(21)
    weak = [
        (one, other, round(found, 2))
        for pairs, least in ((READ, 4.5), (SEEN, 3.0))
        for one, other in pairs
        if (found := contrast(color(one), color(other))) < least
    ]
    assert weak == []


def test_axe_finds_no_violation_in_any_state_of_the_page_light_or_dark(
    serve: Callable[..., str], url: str, open_page: Any, read: Any
) -> None:
    found = []

    def check(page: Any) -> None:
        for scheme, options in CHECKS.items():
            page.emulate_media(color_scheme=scheme)
            found.append(axe.Axe().run(page, options=options))

    page = open_page(url, **STILL)
    page.locator("#rights tr").first.wait_for()
    check(page)
    page.get_by_role("button", name="Read it").click()
    page.locator("#problem:not(:empty)").wait_for()
    check(page)
    for text, posts in ((TEXT, False), (POSTS, True)):
        read(page, text, posts=posts)
        check(page)
    locked = open_page(serve(key="sesame"), expected=("status of 401",), **STILL)
    locked.locator("#lock").wait_for()
    check(locked)
    assert [state.generate_report() for state in found if state.violations_count] == []


def test_axe_would_find_a_control_without_a_label(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    page.evaluate("document.getElementById('label').remove()")
    page.locator("#text").evaluate("t => t.removeAttribute('placeholder')")
    assert "label" in axe.Axe().run(page).generate_snapshot()


def test_every_control_is_reached_by_keyboard_in_reading_order(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    page.locator("#rights tr").first.wait_for()
    reached, hidden = [], []
    for _ in range(20):
        page.keyboard.press("Tab")
        name, is_visible = page.evaluate(
            """() => {
              const e = document.activeElement;
              const ring = getComputedStyle(e.closest(".choice") ?? e);
              const name = e.id || e.value || e.textContent.trim().replace(/\\s+/g, " ");
              return [name, ring.outlineStyle !== "none" && parseFloat(ring.outlineWidth) >= 2];
            }"""
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        reached.append(name)
        hidden += [] if is_visible else [name]
    assert reached == [
        "what it is not for",
        "text",  # the radio button "one text"
        "text",  # the field
        "Read it",
        "one",
        "five",
        "API documentation",
        "Model details (JSON)",
    ]
    assert hidden == []


def test_a_result_is_announced_and_the_focus_stays(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    for key in ("Tab", "Tab", "ArrowRight", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type("I keep lists.")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.keyboard.type("A quiet evening.")
    page.keyboard.press("Control+Enter")
    page.locator(".pushes").last.wait_for()
    assert page.locator("#read > li").count() == 2
    assert page.evaluate("document.activeElement.id") == "text"
    said = page.locator("#announcement[role=status]").text_content()
    letters = page.locator("#type b").all_inner_texts()
    assert said.startswith(" ".join(letters) + ". ")
    assert said.count("%") + said.count("too close to tell") == 4


def test_a_held_key_sends_one_request(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    requested: list[str] = []
    page.on("request", lambda r: r.url.endswith("/predict") and requested.append(r.url))
    page.locator("#text").fill(TEXT)
    page.locator("#text").focus()
    page.keyboard.down("Control")
    for _ in range(5):
        page.keyboard.down("Enter")
    page.locator("#reading").wait_for()
    assert len(requested) == 1


def test_a_phone_of_320_pixels_never_scrolls_sideways(url: str, open_page: Any, read: Any) -> None:
    page = open_page(url, viewport={"width": 320, "height": 640}, **STILL)
    page.locator("#rights tr").first.wait_for()
    word = "unbreakable" * 40

    def width() -> int:
        return int(page.evaluate("document.documentElement.scrollWidth"))

    assert width() == 320
    for text, posts in ((TEXT, False), (f"{word}\n\n{word} INTJ www.example.org/{word}", True)):
        read(page, text, posts=posts)
        assert width() == 320
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, .choice, textarea, summary")]
          .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24)
          .map((e) => e.outerHTML)"""
    )
    assert small == []


def test_text_twice_as_large_still_fits_a_phone(url: str, open_page: Any, read: Any) -> None:
    page = open_page(url, viewport={"width": 375, "height": 740}, **STILL)
    page.evaluate("document.documentElement.style.fontSize = '150%'")
    read(page, POSTS, posts=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_motion_follows_the_preference(url: str, open_page: Any, motion: str, moves: bool) -> None:
    page = open_page(url, reduced_motion=motion)
    longest = page.evaluate(
        """() => Math.max(...[...document.querySelectorAll("*")].flatMap((e) =>
          ["transitionDuration", "animationDuration"].flatMap((name) =>
            getComputedStyle(e)[name].split(",").map(parseFloat))))"""
    )
    assert (longest > 0) is moves


def test_the_page_calls_only_its_own_service_and_the_browser_enforces_it(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, expected=("Content Security Policy", "Failed to load"), **STILL)
    requested: list[str] = []
    page.on("request", lambda r: requested.append(r.url))
    page.reload()
    read(page, POSTS, posts=True)
    assert {address.removeprefix(url) for address in requested} <= {"", "info", "predict", "data:,"}
    broken = page.evaluate(
        """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
          fetch("http://127.0.0.2:9/").catch(() => {});
        })"""
    )
    assert broken == "connect-src"
