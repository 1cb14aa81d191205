"""The HTTP API without Ray: status codes, response bodies and limits."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from html import escape
from typing import Any

import httpx
import pytest
from http_client import (
    JSON_TYPE,
    Echo,
    assert_is_error,
    build_client,
    client_of,
    get,
    post_predict,
)

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.serving.app import build_api
from mbti_ray.serving.schemas import ErrorCode, PredictRequest
from mbti_ray.serving.served_model import PredictResult

pytestmark = pytest.mark.unit


def test_a_text_gets_an_object_and_the_bundle_id() -> None:
    response = post_predict({"inputs": "hello"})
    assert response.status_code == 200
    assert response.json() == {
        "type": "INTJ",
        "probabilities": {"E": 0.1, "N": 0.9, "T": 0.9, "J": 0.9},
        "truncated": False,
        "windows": 1,
        "unknown": 0.0,
        "tokens": 0,
    }
    assert response.headers["x-bundle-id"] == "abc123"


def test_masked_spans_are_returned_only_on_request() -> None:
    assert "read" not in post_predict({"inputs": "hello"}).json()
    answer = post_predict({"posts": ["INTJ", "b"], "explain": True}).json()
    assert [read["text"] for read in answer["read"]] == ["INTJ", "b"]
    assert answer["read"][0]["hidden"] == [{"start": 0, "end": 1, "kind": "type"}]
    message = assert_is_error(post_predict({"inputs": "a", "explain": "yes"}), ErrorCode.INVALID)
    assert message == 'explain: is not true, false or "words"; got a string'


def test_a_list_gets_a_list_even_of_one() -> None:
    assert len(post_predict({"inputs": ["a", "b", "c"]}).json()) == 3
    assert isinstance(post_predict({"inputs": ["a"]}).json(), list)


def test_texts_are_separate_inputs_and_posts_are_one_user_read_whole() -> None:
    model = Echo()
    post_predict({"inputs": ["a", "b"]}, model)
    answer = post_predict({"posts": ["a", "b"]}, model)
    assert model.calls == [((("a",), ("b",)), False), ((("a", "b"),), True)]
    assert isinstance(answer.json(), dict)


def test_too_many_texts_or_bytes_are_413() -> None:
    too_many = assert_is_error(post_predict({"posts": ["a"] * 4}, max_texts=3), ErrorCode.TOO_LARGE)
    assert too_many == "4 texts in one request; allowed: 3"
    assert post_predict({"inputs": ["a"] * 3}, max_texts=3).status_code == 200
    for limit, size in ((100, "100 bytes"), (200_000, "0.2 MB"), (1_500_000, "1.5 MB")):
        too_long = post_predict({"inputs": "a" * limit}, max_body_bytes=limit)
        message = assert_is_error(too_long, ErrorCode.TOO_LARGE)
        assert message == f"the body has more than {size}"


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


def test_an_answer_that_json_cannot_have_is_500_in_json() -> None:
    class Broken(Echo):
        async def predict(self, request: PredictRequest) -> PredictResult:
            result = await super().predict(request)
            result.predictions[0].probabilities["E"] = float("nan")
            return result

    assert_is_error(post_predict({"inputs": "a"}, Broken()), ErrorCode.INTERNAL)


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
    assert len(examples) == 6
    for example in examples.values():
        assert post_predict(example["value"]).status_code == 200
    assert {int(s) for s in described["responses"]} == {200, *(c.status for c in ErrorCode)}


def test_the_documentation_page_shows_every_example_and_error_without_a_script() -> None:
    page = get("/docs").text
    assert page.count("curl localhost:8000/predict") == 6
    assert all(
        f"<td>{code.status}</td><td>{escape(code.meaning)}</td>" in page for code in ErrorCode
    )
    assert "<script" not in page


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
