"""The HTTP API without Ray: status codes, response bodies and limits.

Every response is checked against the published OpenAPI schema.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from mbti_ray.config.schema import ServeConfig
from mbti_ray.inference.predictor import Prediction
from mbti_ray.serving.app import build_api
from mbti_ray.serving.schemas import (
    MAX_INFLUENCE_POSTS,
    APIError,
    ErrorCode,
    PredictRequest,
    parse_request,
    read_json_body,
)
from mbti_ray.serving.served_model import PredictResult, Timing

pytestmark = pytest.mark.unit

# Pages, and the schema itself.
UNPUBLISHED = ("/", "/docs", "/openapi.json")
JSON_TYPE = {"Content-Type": "application/json"}
SCOPE: Any = {"type": "http", "headers": [(b"content-type", b"application/json")]}


@dataclass
class Echo:
    """A router and model in one, which waits for `gate` and records its calls.

    P(E) is a tenth of the number of posts.
    """

    bundle_id: str = "abc123"
    info: dict[str, Any] = field(default_factory=lambda: {"bundle_id": "abc123"})
    gate: asyncio.Event | None = None
    cancelled: int = 0
    calls: list[tuple[Sequence[Sequence[str]], bool]] = field(default_factory=list)

    def route(self, request: PredictRequest, bundle_id: str | None) -> "Echo":
        if bundle_id not in (None, self.bundle_id):
            raise APIError(ErrorCode.NOT_FOUND, "no such bundle")
        return self

    async def predict(self, request: PredictRequest) -> PredictResult:
        users = request.users
        self.calls.append((tuple(users), request.whole))
        if self.gate:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if "boom" in users[0]:
            raise RuntimeError(users[0])
        predictions = [
            Prediction("INTJ", (len(posts) / 10, 0.9, 0.9, 0.9), truncated=False, windows=1)
            for posts in users
        ]
        span = {"start": 0, "end": 1, "kind": "type"}
        masked = [[{"text": post, "hidden": [span]} for post in posts] for posts in users]
        timing = Timing(0.001, 0.25, 0.0125)
        return PredictResult(predictions, timing, masked if request.explain else None)


def build_client(model: Echo, **limits: Any) -> httpx.AsyncClient:
    return client_of(build_api(model, ServeConfig(**limits)))


def client_of(api: FastAPI) -> httpx.AsyncClient:
    """A client of an application that checks each response against its published schema."""
    published = api.openapi()

    async def check(response: httpx.Response) -> None:
        await response.aread()
        assert_matches_schema(response, published)

    return httpx.AsyncClient(
        transport=httpx.ASGITransport(api),
        base_url="http://localhost:8000",
        event_hooks={"response": [check]},
    )


def assert_matches_schema(response: httpx.Response, published: dict[str, Any]) -> None:
    """Raises unless a JSON body is exactly what openapi.json publishes for it."""
    if response.request.url.path in UNPUBLISHED or response.request.method in ("HEAD", "OPTIONS"):
        return
    method = response.request.method.lower()
    operation = published["paths"].get(response.request.url.path, {}).get(method)
    if operation is None:
        # An unknown path or method, so any published error must do.
        schema = {"$ref": "#/components/schemas/ErrorResponse"}
    else:
        content = operation["responses"][str(response.status_code)]["content"]
        schema = content["application/json"]["schema"]
    schemas = {
        name: {"additionalProperties": False, **model}
        for name, model in published["components"]["schemas"].items()
    }
    jsonschema.validate(response.json(), {**schema, "components": {"schemas": schemas}})


def post_predict(body: Any, model: Echo | None = None, **limits: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def post() -> httpx.Response:
        async with build_client(model or Echo(), **limits) as client:
            return await client.post("/predict", content=content, headers=JSON_TYPE)

    return asyncio.run(post())


def get(path: str, model: Echo | None = None, method: str = "GET") -> httpx.Response:
    async def fetch() -> httpx.Response:
        async with build_client(model or Echo()) as client:
            return await client.request(method, path)

    return asyncio.run(fetch())


def assert_is_error(response: httpx.Response, code: ErrorCode) -> str:
    assert response.status_code == code.status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["code"] == code.name.lower()
    return str(error["message"])


def test_a_text_gets_an_object_and_the_bundle_id() -> None:
    response = post_predict({"inputs": "hello"})
    assert response.status_code == 200
    assert response.json() == {
        "type": "INTJ",
        "probabilities": {"E": 0.1, "N": 0.9, "T": 0.9, "J": 0.9},
        "truncated": False,
        "windows": 1,
        "unknown": 0.0,
    }
    assert response.headers["x-bundle-id"] == "abc123"


def test_masked_spans_are_returned_only_on_request() -> None:
    assert "read" not in post_predict({"inputs": "hello"}).json()
    answer = post_predict({"posts": ["INTJ", "b"], "explain": True}).json()
    assert [read["text"] for read in answer["read"]] == ["INTJ", "b"]
    assert answer["read"][0]["hidden"] == [{"start": 0, "end": 1, "kind": "type"}]
    message = assert_is_error(post_predict({"inputs": "a", "explain": "yes"}), ErrorCode.INVALID)
    assert message == "explain: is not true or false"


def test_a_list_gets_a_list_even_of_one() -> None:
    assert len(post_predict({"inputs": ["a", "b", "c"]}).json()) == 3
    assert isinstance(post_predict({"inputs": ["a"]}).json(), list)


def test_texts_are_separate_inputs_and_posts_are_one_user_read_whole() -> None:
    model = Echo()
    post_predict({"inputs": ["a", "b"]}, model)
    answer = post_predict({"posts": ["a", "b"]}, model)
    assert model.calls == [((("a",), ("b",)), False), ((("a", "b"),), True)]
    assert isinstance(answer.json(), dict)


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
        ({"inputs": ["a", 1]}, "inputs[1]: is not a string"),
        ({"inputs": None}, "inputs: is not a string"),
        ({"inputs": {"text": "a"}}, "inputs: is not a string"),
        ({"posts": "a"}, "posts: is not a list of strings"),
        ({"posts": []}, "posts: is an empty list"),
        ({"posts": ["a", None]}, "posts[1]: is not a string"),
        ({"inputs": "a", "extra": 1}, "extra: is not a known field"),
        ({"inputs": "\ud800"}, "inputs: contains half of a surrogate pair"),
    ],
)
def test_a_wrong_shape_is_422_and_says_where(body: Any, message: str) -> None:
    assert message in assert_is_error(post_predict(body), ErrorCode.INVALID)


def test_too_many_texts_or_bytes_are_413() -> None:
    too_many = assert_is_error(post_predict({"posts": ["a"] * 4}, max_texts=3), ErrorCode.TOO_LARGE)
    assert too_many == "4 texts in one request; allowed: 3"
    assert post_predict({"inputs": ["a"] * 3}, max_texts=3).status_code == 200
    assert_is_error(post_predict({"inputs": "a" * 100}, max_body_bytes=100), ErrorCode.TOO_LARGE)


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


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/ready"])
def test_load_balancers_may_send_head(path: str) -> None:
    response = get(path, method="HEAD")
    assert response.status_code == 200


def test_a_request_above_the_limit_is_429_at_once_and_others_are_answered() -> None:
    async def overload() -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        model = Echo(gate=asyncio.Event())
        async with build_client(model, max_queued=2) as client:
            inside = [
                asyncio.create_task(client.post("/predict", json={"inputs": "a"})) for _ in range(2)
            ]
            while len(model.calls) < 2:
                await asyncio.sleep(0)
            turned_away = await client.post("/predict", json={"inputs": "a"})
            health = await client.get("/health")
            assert model.gate is not None
            model.gate.set()
            result = await asyncio.gather(*inside)
            again = await client.post("/predict", json={"inputs": "a"})
            return [*result, again], turned_away, health

    result, turned_away, health = asyncio.run(overload())
    assert [r.status_code for r in result] == [200, 200, 200]
    assert_is_error(turned_away, ErrorCode.QUEUE_FULL)
    assert turned_away.headers["retry-after"] == "1"
    assert health.status_code == 200


def test_a_client_that_sends_slowly_occupies_no_slot() -> None:
    async def main() -> tuple[httpx.Response, httpx.Response]:
        sent = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b'{"inputs": '
            await sent.wait()
            yield b'"a"}'

        async with build_client(Echo(), max_queued=1) as client:
            waiting = asyncio.create_task(
                client.post("/predict", content=slow(), headers=JSON_TYPE)
            )
            await asyncio.sleep(0.05)
            other = await client.post("/predict", json={"inputs": "b"})
            assert not waiting.done()
            sent.set()
            return other, await waiting

    assert [response.status_code for response in asyncio.run(main())] == [200, 200]


def test_a_response_after_the_deadline_is_504() -> None:
    response = post_predict({"inputs": "a"}, Echo(gate=asyncio.Event()), deadline_s=0.01)
    assert_is_error(response, ErrorCode.TOO_SLOW)


def test_a_running_application_is_alive_and_ready() -> None:
    assert get("/health").json() == {"status": "alive"}
    assert get("/ready").json() == {"status": "ready"}


def test_an_exception_is_logged_without_the_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = assert_is_error(post_predict({"inputs": "boom"}), ErrorCode.INTERNAL)
    assert "RuntimeError" in caplog.text
    assert "boom" not in caplog.text.replace('if "boom" in users', "") + message


def test_unknown_paths_and_methods_have_the_error_schema() -> None:
    assert_is_error(get("/nothing"), ErrorCode.NOT_FOUND)
    assert_is_error(get("/predict/"), ErrorCode.NOT_FOUND)
    wrong = get("/predict")
    assert_is_error(wrong, ErrorCode.METHOD_NOT_ALLOWED)
    assert wrong.headers["allow"] == "POST"


def test_every_error_is_reported_by_its_code() -> None:
    codes: list[str] = []
    api = build_api(Echo(), ServeConfig(max_texts=1), on_error=codes.append)

    async def main() -> None:
        async with client_of(api) as client:
            await client.get("/nothing")
            await client.post("/predict", content=b"{", headers=JSON_TYPE)
            await client.post("/predict", json={"inputs": ["a", "b"]})
            await client.post("/predict", json={"inputs": "a"})

    asyncio.run(main())
    assert codes == ["not_found", "not_json", "too_large"]


def test_a_header_selects_the_bundle() -> None:
    async def main() -> list[httpx.Response]:
        async with build_client(Echo()) as client:
            return [
                await client.post("/predict", json={"inputs": "a"}, headers={"X-Bundle-Id": name})
                for name in ("abc123", "nothing")
            ]

    known, unknown = asyncio.run(main())
    assert known.headers["x-bundle-id"] == "abc123"
    assert_is_error(unknown, ErrorCode.NOT_FOUND)


def test_info_is_what_the_router_reports() -> None:
    assert get("/info").json() == {"bundle_id": "abc123"}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_other_hosts(path: str) -> None:
    response = get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "://" not in response.text
    assert "src=" not in response.text.replace('name="', "")


def test_every_published_example_is_accepted_and_every_error_is_published() -> None:
    described = get("/openapi.json").json()["paths"]["/predict"]["post"]
    examples = described["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) == 5
    for example in examples.values():
        assert post_predict(example["value"]).status_code == 200
    assert {int(s) for s in described["responses"]} == {200, *(c.status for c in ErrorCode)}


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


def test_server_timing_gives_the_milliseconds_of_each_stage() -> None:
    timing = post_predict({"inputs": "a"}).headers["server-timing"]
    assert timing == "tokenise;dur=1.00, queue;dur=250.00, forward;dur=12.50"


def test_influence_is_the_difference_to_the_posts_without_each_one() -> None:
    model = Echo()
    answer = post_predict({"posts": ["a", "b", "c"], "influence": True}, model).json()
    assert [users for users, _ in model.calls] == [
        (("a", "b", "c"), ("b", "c"), ("a", "c"), ("a", "b"))
    ]
    assert [round(one["E"], 6) for one in answer["influence"]] == [0.1, 0.1, 0.1]
    assert [one["N"] for one in answer["influence"]] == [0, 0, 0]
    assert "influence" not in post_predict({"posts": ["a", "b"]}).json()


@pytest.mark.parametrize("count", [1, MAX_INFLUENCE_POSTS + 1])
def test_influence_needs_a_few_posts(count: int) -> None:
    response = post_predict({"posts": ["a"] * count, "influence": True})
    assert f"got {count}" in assert_is_error(response, ErrorCode.INVALID)


def test_the_posts_of_an_influence_request_count_once_towards_the_limit() -> None:
    body = {"posts": ["a"] * 10, "influence": True}
    assert post_predict(body, max_texts=10).status_code == 200
    assert_is_error(post_predict(body, max_texts=9), ErrorCode.TOO_LARGE)


def raw_request(
    model: Echo,
    *,
    disconnect: bool = False,
    on_error: Callable[[str], None] = lambda _: None,
    **limits: Any,
) -> list[Any]:
    """The messages that POST /predict sends; the client may disconnect once the model runs."""
    sent: list[Any] = []
    body = json.dumps({"inputs": "a"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if not disconnect:
            await asyncio.Event().wait()
        while not model.calls:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    api = build_api(model, ServeConfig(**limits), on_error=on_error)
    asyncio.run(asyncio.wait_for(api(scope, receive, send), 10))
    return sent


def test_a_disconnected_client_releases_its_slot() -> None:
    model = Echo(gate=asyncio.Event())
    raw_request(model, disconnect=True)
    assert model.cancelled == 1


def test_a_disconnected_client_is_not_counted_as_an_error() -> None:
    codes: list[str] = []
    raw_request(Echo(gate=asyncio.Event()), disconnect=True, on_error=codes.append)
    assert codes == []


def test_a_prediction_is_cancelled_at_the_deadline() -> None:
    model = Echo(gate=asyncio.Event())
    sent = raw_request(model, deadline_s=0.05)
    assert sent[0]["status"] == 504
    assert model.cancelled == 1
