"""The page for people when the service fails: busy, starting, too slow, locked, gone."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from page import wait_for_text

pytestmark = pytest.mark.browser

STILL = {"reduced_motion": "reduce"}
TEXT = "As an INTJ I keep lists."


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve()


def type_of(url: str) -> str:
    return str(httpx.post(f"{url}predict", json={"posts": [TEXT]}).json()["type"])


def test_an_empty_text_is_reported_and_not_sent(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    requested: list[str] = []
    page.on("request", lambda r: requested.append(r.url))
    page.locator("#text").fill(" \n\n ")
    page.get_by_role("button", name="Read it").click()
    wait_for_text(page, "#problem", "Enter some text first")
    assert page.locator("#text").get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "text"
    assert not any(address.endswith("predict") for address in requested)


@contextmanager
def only_slot_taken(serve: Any, url: str) -> Iterator[None]:
    """Another client holds the only slot of a service with `max_queued=1`."""

    def other() -> httpx.Response:
        return httpx.post(f"{url}predict", json={"inputs": "a"}, timeout=60)

    with ThreadPoolExecutor(2) as clients, serve.occupied(url):
        others = [clients.submit(other) for _ in range(2)]
        refused, _ = wait(others, return_when=FIRST_COMPLETED)
        assert [r.result().status_code for r in refused] == [429]
        yield


def test_a_busy_service_is_retried_once_after_retry_after(
    serve: Callable[..., str], open_page: Any
) -> None:
    url = serve(max_queued=1)
    page = open_page(url, expected=("status of 429",), **STILL)
    refused: list[float] = []
    page.on("response", lambda r: r.status == 429 and refused.append(r.request.timing["startTime"]))
    page.locator("#text").fill(TEXT)
    with only_slot_taken(serve, url):
        page.locator("#text").press("Control+Enter")
        wait_for_text(page, "#status", "Retrying after 1 second")
        wait_for_text(page, "#problem", "Please try again after 1 second.")
        assert len(refused) == 2
        assert refused[1] - refused[0] >= 990
        assert page.locator("#text").input_value() == TEXT
        page.locator("#text").press("Control+Enter")
        wait_for_text(page, "#status", "Retrying after 1 second")
    page.locator("#reading").wait_for()
    assert "".join(page.locator("#type b").all_inner_texts()) == type_of(url)
    assert page.locator("#problem").inner_text() == ""


def test_escape_cancels_a_request_and_the_next_one_works(url: str, open_page: Any) -> None:
    page = open_page(url, **STILL)
    page.route("**/predict", lambda _: None)  # A network that never responds.
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Control+Enter")
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")
    wait_for_text(page, "#status", "Stopped.")
    assert not page.get_by_role("button", name="Stop").is_visible()
    assert page.locator("#answer").get_attribute("aria-busy") == "false"
    page.unroute("**/predict")
    page.locator("#text").press("Control+Enter")
    page.locator("#reading").wait_for()


def test_a_service_without_a_ready_replica_is_retried_after_retry_after(
    url: str, open_page: Any
) -> None:
    page = open_page(url, expected=("status of 503",), **STILL)
    refusals = [1]

    def refuse_once(route: Any) -> None:
        if refusals:
            route.fulfill(status=503, headers={"Retry-After": str(refusals.pop())})
        else:
            route.continue_()

    page.route("**/predict", refuse_once)
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Control+Enter")
    wait_for_text(page, "#status", "still starting")
    page.locator("#reading").wait_for()


@pytest.mark.parametrize(
    ("limits", "status", "sentence"),
    [
        ({"deadline_s": 1e-6}, 504, "took too long and was cancelled"),
        ({"max_texts": 3}, 413, "5 texts in one request; allowed: 3"),
    ],
)
def test_an_error_is_shown_as_a_sentence(
    serve: Callable[..., str], open_page: Any, limits: Any, status: int, sentence: str
) -> None:
    page = open_page(serve(**limits), expected=(f"status of {status}",), **STILL)
    page.get_by_label("several posts").check()
    page.locator("#text").fill("a\n\nb\n\nc\n\nd\n\ne")
    page.get_by_role("button", name="Read it").click()
    wait_for_text(page, "#problem", sentence)
    assert "will appear here" in page.locator("#heading").inner_text()


def test_an_unreachable_service_is_shown_as_a_sentence(url: str, open_page: Any) -> None:
    page = open_page(url, expected=("ERR_INTERNET_DISCONNECTED",), **STILL)
    page.context.set_offline(True)
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Control+Enter")
    wait_for_text(page, "#problem", "cannot be reached")


def test_a_key_is_requested_used_and_stored_nowhere(
    serve: Callable[..., str], open_page: Any
) -> None:
    page = open_page(serve(key="sesame"), expected=("status of 401",), **STILL)
    page.locator("#lock").wait_for()
    page.locator("#text").fill(TEXT)
    page.locator("#text").press("Control+Enter")
    wait_for_text(page, "#problem", "requires an API key")
    assert page.evaluate("document.activeElement.id") == "key"
    assert page.locator("#key").get_attribute("type") == "password"
    page.keyboard.type("guess")
    page.keyboard.press("Enter")
    wait_for_text(page, "#problem", "did not accept this key")
    page.keyboard.type("sesame")
    page.keyboard.press("Enter")
    page.locator("#reading").wait_for()
    assert not page.locator("#lock").is_visible()
    assert page.locator("#key").input_value() == ""
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert json.loads(kept) == [{}, {}, ""]
    page.reload()
    page.locator("#lock").wait_for()
