"""What tests read from the page for people, and the answers that it should show."""

from typing import Any

import httpx

from mbti_ray.data.builtin_corpus import builtin_rows

STILL = {"reduced_motion": "reduce"}
POSTS = [post for row in builtin_rows(users=2) for post in row.posts][:5]
TEXT = "\U0001f642 As an INTJ I keep lists, see www.example.org/lists \U0001f642 and read novels."


def ask(url: str, **body: Any) -> dict[str, Any]:
    response = httpx.post(f"{url}predict", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def shown(page: Any) -> dict[str, Any]:
    """The type and the percentages on the page, with plain spaces."""
    texts = page.locator(".poles i").all_inner_texts()
    return {
        "type": "".join(page.locator("#type b").all_inner_texts()),
        "percent": [text.replace("\xa0", " ") for text in texts],
    }


def wait_for_text(page: Any, selector: str, text: str) -> None:
    page.locator(selector, has_text=text).wait_for(state="attached")
