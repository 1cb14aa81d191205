"""What the page says of how sure an answer is, and of which words moved it, in a browser."""

from collections.abc import Callable
from math import floor
from pathlib import Path
from typing import Any

import httpx
import pytest
from page import STILL, TEXT, ask, shown, wait_for_text

from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.browser

PHONE = {"width": 320, "height": 640}


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve()


def test_words_are_marked_by_how_they_move_each_letter_beside_what_was_masked(
    url: str, open_page: Any, read: Any, screenshots: Path
) -> None:
    page = open_page(url, **STILL)
    read(page, TEXT)
    page.get_by_role("button", name="Which words?").click()
    page.locator("mark.word").first.wait_for()
    (found,) = ask(url, posts=[TEXT], explain="words")["read"]
    for dimension in DIMENSIONS:
        page.get_by_label(" or ".join(dimension.letters), exact=True).check()
        moves = [
            (found["text"][w["start"] : w["end"]], w[dimension.positive]) for w in found["words"]
        ]
        least = max(0.005, max(0.01, *(abs(v) for _, v in moves)) / 5)
        expected = [
            f"{word}{floor(100 * abs(v) + 0.5)} to "
            f"{dimension.positive if v > 0 else dimension.negative}"
            for word, v in moves
            if abs(v) >= least
        ]
        assert page.locator("mark.word").all_inner_texts() == expected
    assert page.locator("#read mark s").all_inner_texts() == ["INTJ", "www.example.org/lists"]
    page.screenshot(path=screenshots / "page-words.png", full_page=True)
    read(page, "a quiet evening")
    assert page.locator("mark.word, #letters:visible").count() == 0


def test_words_whose_influence_could_not_be_computed_can_be_tried_again(
    serve: Callable[..., str], open_page: Any, read: Any
) -> None:
    page = open_page(serve(), expected=("status of 413",), **STILL)
    read(page, "evening " * 300)
    page.get_by_role("button", name="Which words?").click()
    wait_for_text(
        page, "#weighing", "could not be computed. The service rejected this: posts[0]: 257"
    )
    assert page.get_by_role("button", name="Which words?").is_visible()


def test_letters_of_which_the_test_scores_say_nothing_are_gray_and_named(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)
    card = httpx.get(f"{url}info").json()["scores"]["scorecard"]
    read(page, TEXT)

    def beats_majority(name: str) -> bool:
        low = card["dimensions"][name]["accuracy"]["low"]
        return bool(low > card["baselines"]["majority"][name]["value"])

    idle = [d for d in DIMENSIONS if not beats_majority(d.key)]
    kinds = page.locator("#type > span").evaluate_all("all => all.map(one => one.className)")
    letters = shown(page)["type"]
    assert [k in ("idle", "unsure") for k in kinds] == [
        d in idle or letter == "X" for d, letter in zip(DIMENSIONS, letters, strict=True)
    ]
    assert page.locator("#idle").is_visible() == bool(idle)
    assert all(" or ".join(d.letters) in page.locator("#idle").inner_text() for d in idle)

    def with_low(low: float) -> Callable[[Any], None]:
        def answer(route: Any) -> None:
            body = route.fetch().json()
            for dimension in body["scores"]["scorecard"]["dimensions"].values():
                dimension["accuracy"]["low"] = low
            route.fulfill(json=body)

        return answer

    for low, gray in ((0.0, 4), (1.0, 0)):
        page.route("**/info", with_low(low))
        page.reload()
        read(page, TEXT)
        assert page.locator("#axes .idle").count() == gray
        assert page.locator("#idle").is_visible() == bool(gray)


def test_how_many_more_posts_would_make_a_letter_sure_is_said_where_it_is_known(
    url: str, open_page: Any, read: Any
) -> None:
    page = open_page(url, **STILL)

    def answer(route: Any) -> None:
        more = {"E": 12, "N": 0, "T": None, "J": 1}
        route.fulfill(json=route.fetch().json() | {"more_posts": more})

    page.route("**/predict", answer)
    read(page, TEXT)
    notes = [n.replace("\xa0", " ") for n in page.locator(".axis p").all_inner_texts()]
    assert "About 12 more posts like this would make it 80 %." in notes[0]
    assert "About 1 more post like this" in notes[3]
    assert not any("more" in note for note in notes[1:3])


def test_the_message_about_a_text_too_long_is_in_view_on_a_phone(
    serve: Callable[..., str], open_page: Any
) -> None:
    url = serve(max_body_bytes=3000)
    page = open_page(url, viewport=PHONE, expected=("status of 413",), **STILL)
    page.locator("#text").fill("evening\n" * 500)
    page.get_by_role("button", name="Read it").click()
    wait_for_text(page, "#problem", "the body has more than 3000 bytes")
    box = page.locator("#problem").bounding_box()
    assert 0 <= box["y"] <= PHONE["height"] - box["height"]
