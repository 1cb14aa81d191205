"""The page for people in a browser, against the real service with a model trained here."""

import re
from collections.abc import Callable
from math import floor
from pathlib import Path
from typing import Any

import httpx
import pytest
from page import POSTS, STILL, TEXT, ask, shown, wait_for_text

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serving.target import ServingTarget
from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve()


def percent(share: float) -> str:
    if share < 0.005:
        return "< 1 %"
    return "> 99 %" if share > 0.995 else f"{floor(100 * share + 0.5)} %"


def expected(answer: dict[str, Any]) -> dict[str, Any]:
    """What the page must show for a response: the percentages of the first and second poles."""
    percents = []
    for dimension in DIMENSIONS:
        share = answer["probabilities"][dimension.positive]
        first = share if dimension.letters[0] == dimension.positive else 1 - share
        percents += [percent(first), percent(1 - first)]
    return {"type": answer["type"], "percent": percents}


@pytest.mark.parametrize(("name", "viewport"), [("phone", PHONE), ("desktop", DESKTOP)])
def test_a_text_and_posts_show_what_the_service_returns(
    url: str, open_page: Any, read: Any, screenshots: Path, name: str, viewport: Any
) -> None:
    def keep(state: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=screenshots / f"page-{name}-{scheme}-{state}.png", full_page=True)

    page = open_page(url, viewport=viewport, **STILL)
    page.locator("#rights tr").first.wait_for()
    keep("before")
    read(page, TEXT)
    assert shown(page) == expected(ask(url, posts=[TEXT]))
    keep("text")
    read(page, "\n\n".join(POSTS), posts=True)
    assert shown(page) == expected(ask(url, posts=POSTS))
    assert page.locator("#read > li").count() == len(POSTS)
    keep("posts")


def test_each_post_shows_its_influence_and_the_largest_is_highlighted(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)
    read(page, "|||".join(POSTS), posts=True)
    influence = ask(url, posts=POSTS, influence=True)["influence"]
    for place, push in enumerate(influence):
        cells = page.locator(f"#read > li:nth-child({place + 1}) .pushes > div")
        for dimension, cell in zip(DIMENSIONS, cells.all(), strict=True):
            value = push[dimension.positive]
            pole = dimension.positive if value > 0 else dimension.negative
            text = f"{round(100 * abs(value))} to {pole}" if abs(value) >= 0.005 else "–"
            assert cell.locator("dd").inner_text().strip() == text
            bar = cell.locator(".push i").evaluate("i => parseFloat(i.style.left)")
            assert (bar < 50) == (pole == dimension.letters[0] and abs(value) > 0)
            largest = max(map(abs, push.values()))
            assert cell.evaluate("c => c.className === 'most'") == (
                abs(value) == largest and largest >= 0.005
            )


def test_a_result_stays_when_the_influence_of_posts_fails(url: str, open_page: Any) -> None:
    page = open_page(url, expected=("ERR_FAILED",), **STILL)

    def cut(route: Any) -> None:
        route.abort() if "influence" in route.request.post_data else route.continue_()

    page.route("**/predict", cut)
    page.get_by_label("several posts").check()
    page.locator("#text").fill("\n\n".join(POSTS))
    page.locator("#text").press("Control+Enter")
    wait_for_text(page, "#pushing", "could not be computed. The service cannot be reached.")
    assert shown(page) == expected(ask(url, posts=POSTS))
    page.unroute("**/predict")
    page.get_by_role("button", name="Try again").click()
    page.locator(".pushes").last.wait_for()
    assert not page.locator("#again").is_visible()


def test_masked_spans_are_struck_out_and_named(url: str, open_page: Any, read: Any) -> None:
    page = open_page(url, **STILL)
    read(page, TEXT)
    marks = page.locator("#read mark")
    assert marks.locator("s").all_inner_texts() == ["INTJ", "www.example.org/lists"]
    assert [t.strip() for t in marks.locator("small").all_text_contents()] == [
        "masked: name of a type",
        "masked: link",
    ]
    assert "1 name of a type, 1 link" in page.locator("#masked").inner_text()


def test_the_band_and_the_threshold_are_the_bundles_and_x_is_explained(
    url: str, open_page: Any, read: Any, bundles: dict[str, Path]
) -> None:
    predictor = Predictor.load(bundles["scored"])
    texts = [post for row in builtin_rows(users=60) for post in row.posts[:1]]
    types = [p.type for p in predictor.predict([[t] for t in texts], whole=True)]
    text, mbti_type = next(
        (t, m) for t, m in zip(texts, types, strict=True) if 0 < m.count("X") < 4
    )
    page = open_page(url, **STILL)
    read(page, text)
    info = httpx.get(f"{url}info").json()
    rows = page.locator(".axis").all()
    for k, (dimension, row) in enumerate(zip(DIMENSIONS, rows, strict=True)):
        low, high = (info["thresholds"][k] + s * info["abstain"] for s in (-1, 1))
        if dimension.letters[0] == dimension.positive:
            low, high = 1 - high, 1 - low
        left, width = row.locator(".band").evaluate(
            "b => [parseFloat(b.style.left), parseFloat(b.style.width)]"
        )
        assert left == pytest.approx(100 * max(low, 0), abs=0.01)
        assert left + width == pytest.approx(100 * min(high, 1), abs=0.01)
        note = row.locator("p").inner_text()
        assert note.startswith("Too close to tell" if mbti_type[k] == "X" else mbti_type[k])
    assert "cannot tell" in page.locator("#type").inner_text()


def test_reliability_comes_from_the_test_scores_with_the_majority_class_as_baseline(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)
    page.locator("#rights tr").first.wait_for()
    card = httpx.get(f"{url}info").json()["scores"]["scorecard"]
    always = card["baselines"]["majority"]
    cells = [row.locator("td").all() for row in page.locator("#rights tr").all()]
    found = [(a.inner_text().split("\n")[0], b.inner_text()) for a, b in cells]
    keys = [d.key for d in DIMENSIONS]
    pairs = [(card["dimensions"][k]["accuracy"]["value"], always[k]["value"]) for k in keys]
    pairs += [(card["overall"][k]["value"], always[k]["value"]) for k in ("accuracy", "all_four")]
    assert [(a.replace("\xa0", " "), b.replace("\xa0", " ")) for a, b in found] == [
        (percent(a), percent(b)) for a, b in pairs
    ]
    assert f"{card['overall']['brier']['value']:.2f}" in page.locator("#calibrated").inner_text()
    is_better = card["paired"]["accuracy"]["low"] > 0
    comparison = "It is right more often than" if is_better else "Its test scores do not show"
    assert page.locator("#comparison").inner_text().startswith(comparison)
    read(page, TEXT)
    alike = page.locator("#sure b, #sure li > small:nth-child(2)").all_inner_texts()
    assert len(alike) == 4
    assert all(re.fullmatch(r"\d+ of \d+|no test result near that", t) for t in alike)


def test_a_probability_for_other_base_rates_is_not_compared_with_those_of_the_test(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)
    page.locator("#rights tr").first.wait_for()
    page.evaluate("info.asked_base_rates = { E: 0.3 }")
    read(page, TEXT)
    assert page.locator("#sure li").count() == 3
    assert not re.search("Extraversion|Introversion", page.locator("#sure").inner_text())
    page.evaluate("info.asked_base_rates = { E: 0.3, N: 0.3, T: 0.3, J: 0.3 }")
    read(page, TEXT)
    assert not page.locator("#sureness").is_visible()


def test_a_truncated_text_is_reported(url: str, open_page: Any, read: Any) -> None:
    page = open_page(url, **STILL)
    read(page, "a quiet evening")
    assert "in one window" in page.locator("#extent").inner_text()
    read(page, " ".join(POSTS))
    windows = ask(url, posts=[" ".join(POSTS)])["windows"]
    assert windows > 1
    assert f"in {windows} windows" in page.locator("#extent").inner_text()
    read(page, " ".join(POSTS * 9))
    assert "Longer than the limit: only 4 windows" in page.locator("#extent").inner_text()


def test_words_that_the_model_does_not_know_are_reported(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)
    read(page, "読書 読書 читать")
    share = ask(url, posts=["読書 読書 читать"])["unknown"]
    assert share > 0
    shown_text = page.locator("#extent").inner_text().replace("\xa0", " ")
    assert f"{percent(share)} of its words are unknown" in shown_text


def test_the_facts_shown_are_those_of_the_bundle_that_answered(
    serve: Callable[..., str], bundles: dict[str, Path], open_page: Any, read: Any
) -> None:
    primary, canary = str(bundles["scored"]), str(bundles["plain"])
    url = serve(target=ServingTarget(primary, canary=canary, canary_share=1.0))
    info = httpx.get(f"{url}info").json()
    page = open_page(url, **STILL)
    requested: list[dict[str, str]] = []
    page.on("request", lambda r: r.url.endswith("/predict") and requested.append(r.headers))
    read(page, "\n\n".join(POSTS), posts=True)
    assert shown(page) == expected(ask(url, posts=POSTS))
    # The influence of each post is requested from the same bundle.
    assert [headers.get("x-bundle-id") for headers in requested] == [
        None,
        info["beside"]["bundle_id"],
    ]
    # The threshold of the other bundle does not apply.
    known = info["beside"].get("thresholds", [None])[0]
    tick = page.locator(".tick").first
    place = tick.evaluate("t => 1 - parseFloat(t.style.left) / 100")
    assert (place if tick.is_visible() else None) == pytest.approx(known)


def test_a_bundle_without_test_scores_is_reported_as_unknown(
    serve: Callable[..., str], bundles: dict[str, Path], open_page: Any, read: Any
) -> None:
    page = open_page(serve(target=ServingTarget(str(bundles["plain"]))), **STILL)
    read(page, TEXT)
    assert page.locator("#unknown").is_visible()
    assert not page.locator("#scores").is_visible()
    assert not page.locator("#sureness").is_visible()


def test_pasted_posts_joined_by_bars_switch_to_posts(url: str, open_page: Any) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"], **STILL)
    page.evaluate("text => navigator.clipboard.writeText(text)", "one|||two\n\nstill two|||three")
    page.locator("#text").focus()
    page.keyboard.press("Control+V")
    wait_for_text(page, "#count", "3 posts")
    assert page.get_by_label("several posts").is_checked()


def test_markup_in_a_text_is_shown_as_text(url: str, open_page: Any, read: Any) -> None:
    page = open_page(url, **STILL)
    markup = "<img src=nothing onerror=alert(1)><b id=bold>bold</b> &amp; INTJ"
    read(page, f"{markup}\n\n{markup}", posts=True)
    assert page.locator("#read .text").first.text_content().startswith(markup[:-4])
    assert page.locator("img, #bold").count() == 0
    assert "innerHTML" not in page.content()
