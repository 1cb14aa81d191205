"""Parsing and validating requests: which error, and where."""

import asyncio
import json
from typing import Any

import pytest
from http_client import (
    SCOPE,
    assert_is_error,
    post_predict,
)
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from mbti_ray.serving.schemas import (
    MAX_INFLUENCE_POSTS,
    APIError,
    ErrorCode,
    PredictRequest,
    parse_request,
    read_json_body,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"text", b"\xff\xfe", b'{"inputs": "\xff"}', b"[" * 100_000, b"9" * 5000],
    ids=["empty", "open", "word", "utf-16", "latin-1", "deep", "huge number"],
)
def test_a_body_that_is_not_json_is_400(body: bytes) -> None:
    assert_is_error(post_predict(body), ErrorCode.NOT_JSON)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body is not an object"),
        ("text", "the body is not an object"),
        ({}, "give exactly one"),
        ({"input": "a"}, 'did you mean "inputs"?'),
        ({"inputs": "a", "posts": ["a"]}, "give exactly one"),
        ({"inputs": ""}, "inputs: is empty"),
        ({"inputs": " \n\t"}, "inputs: is empty"),
        ({"inputs": []}, "inputs: is an empty list"),
        ({"inputs": ["a", " "]}, "inputs[1]: is empty"),
        ({"inputs": ["a", 1]}, "inputs[1]: is not a string; got a number, 1"),
        ({"inputs": None}, "inputs: is not a string; got null"),
        ({"inputs": 5.5}, "inputs: is not a string; got a number, 5.5"),
        ({"inputs": True}, "inputs: is not a string; got true"),
        ({"inputs": {"text": "a"}}, "inputs: is not a string; got an object"),
        ({"posts": "secret"}, "posts: is not a list of strings; got a string"),
        (
            {"posts": ["a"] * 33, "explain": "words"},
            'posts: "explain": "words" needs 1 to 32, got 33',
        ),
        ({"posts": []}, "posts: is an empty list"),
        ({"posts": ["a", None]}, "posts[1]: is not a string"),
        ({"inputs": "a", "extra": 1}, "extra: is not a known field"),
        ({"inputs": "\ud800"}, "inputs: contains half of a surrogate pair"),
    ],
)
def test_a_wrong_shape_is_422_and_says_where(body: Any, message: str) -> None:
    assert message in assert_is_error(post_predict(body), ErrorCode.INVALID)


def test_an_endless_body_is_read_only_up_to_the_limit() -> None:
    sent = 0

    async def endless() -> Message:
        nonlocal sent
        sent += 1000
        return {"type": "http.request", "body": b"a" * 1000, "more_body": True}

    with pytest.raises(APIError, match="more than 5000 bytes"):
        asyncio.run(read_json_body(Request(SCOPE, endless), max_bytes=5000))
    assert sent == 6000


@pytest.mark.parametrize("length", ["5001", "9" * 19, "9" * 9000])
def test_a_body_announced_too_large_is_413_before_any_of_it_is_read(length: str) -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    length_header = (b"content-length", length.encode())
    scope = {**SCOPE, "headers": [*SCOPE["headers"], length_header]}
    with pytest.raises(APIError, match="more than 5000 bytes"):
        asyncio.run(read_json_body(Request(scope, receive), max_bytes=5000))


@pytest.mark.parametrize("key", ["inputs", "posts"])
def test_texts_are_counted_before_they_are_validated(key: str) -> None:
    # Each of them is empty, which would be 422.
    assert_is_error(post_predict({key: [""] * 300_000}), ErrorCode.TOO_LARGE)


def test_an_unknown_field_is_reported_whatever_its_name() -> None:
    fields = {f"a{n}": 1 for n in range(50_000)} | {"inputs": "a"}
    message = assert_is_error(post_predict(fields), ErrorCode.INVALID)
    assert message == "a0: is not a known field"
    body = json.dumps({"inputs": "a", "\ud800": 1}).encode()
    message = assert_is_error(post_predict(body), ErrorCode.INVALID)
    assert message == "\\ud800: is not a known field"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def parsed_or_code(body: bytes) -> PredictRequest | ErrorCode:
    try:
        return parse_request(body, max_texts=3)
    except APIError as error:
        return error.code


@given(st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_body_is_a_request_or_an_error_of_the_table(body: bytes) -> None:
    found = parsed_or_code(body)
    assert not isinstance(found, ErrorCode) or found in (
        ErrorCode.NOT_JSON,
        ErrorCode.INVALID,
        ErrorCode.TOO_LARGE,
    )


@given(st.sampled_from(["inputs", "posts"]), JSON)
def test_an_accepted_request_contains_only_readable_texts(key: str, value: Any) -> None:
    found = parsed_or_code(json.dumps({key: value}).encode())
    if not isinstance(found, ErrorCode):
        assert found.whole is (key == "posts")
        assert all(post.strip() for posts in found.users for post in posts)
    else:
        assert found in (ErrorCode.INVALID, ErrorCode.TOO_LARGE)


@pytest.mark.parametrize("count", [1, MAX_INFLUENCE_POSTS + 1])
def test_influence_needs_a_few_posts(count: int) -> None:
    response = post_predict({"posts": ["a"] * count, "influence": True})
    assert f"got {count}" in assert_is_error(response, ErrorCode.INVALID)


def test_the_posts_of_an_influence_request_count_once_towards_the_limit() -> None:
    body = {"posts": ["a"] * 10, "influence": True}
    assert post_predict(body, max_texts=10).status_code == 200
    assert_is_error(post_predict(body, max_texts=9), ErrorCode.TOO_LARGE)
