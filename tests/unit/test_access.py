"""Who may use the service: the API key, other websites, other host names, the media type."""

import asyncio
from typing import Any

import httpx
import pytest
from http_client import Echo, assert_is_error, client_of

from mbti_ray.config import load_run
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import ConfigError
from mbti_ray.on_ray.serve.deployment import API_KEY_NAME, load_key_digest
from mbti_ray.serving.access import key_digest
from mbti_ray.serving.app import build_api
from mbti_ray.serving.schemas import ErrorCode

pytestmark = [
    pytest.mark.unit,
    # Raised when ray.serve 2.60 is imported with pydantic 2.14.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning"),
]

FRIEND = "https://friend.example"


def send(
    path: str = "/predict",
    *,
    key_hash: str | None = None,
    method: str | None = None,
    config: ServeConfig | None = None,
    **headers: str,
) -> httpx.Response:
    """The response to a request with these headers, `_` for `-`; a JSON body on /predict."""
    config = config or ServeConfig()
    given = {name.replace("_", "-"): value for name, value in headers.items()}

    async def main() -> httpx.Response:
        async with client_of(build_api(Echo(), config, key_hash=key_hash)) as client:
            body: dict[str, Any] = {"json": {"inputs": "a"}} if path == "/predict" else {}
            verb = method or ("POST" if path == "/predict" else "GET")
            return await client.request(verb, path, headers=given, **body)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic secret", 401),
        ("Bearer secret", 200),
        ("bearer  secret ", 200),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/info"])
def test_a_service_with_a_key_requires_it(path: str, given: str | None, status: int) -> None:
    headers = {"Authorization": given} if given else {}
    response = send(path, key_hash=key_digest("secret"), **headers)
    assert response.status_code == status
    if status == 401:
        assert_is_error(response, ErrorCode.UNAUTHORIZED)
        assert response.headers["www-authenticate"] == "Bearer"
    assert send("/ready", key_hash=key_digest("secret")).status_code == 200


@pytest.mark.parametrize("key", ["", " ", "two words", "line\n", "schlüssel", "\x07bell"])
def test_a_variable_that_is_no_key_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(API_KEY_NAME, key)
    with pytest.raises(ConfigError, match=f"{API_KEY_NAME}: must be ASCII"):
        load_key_digest()


def test_a_key_is_known_by_its_digest_and_no_variable_is_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(API_KEY_NAME, "secret")
    assert load_key_digest() == key_digest("secret")
    monkeypatch.delenv(API_KEY_NAME)
    assert load_key_digest() is None


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ""],
)
def test_a_body_of_another_type_is_415(media_type: str) -> None:
    assert_is_error(send(Content_Type=media_type), ErrorCode.NOT_JSON_TYPE)


@pytest.mark.parametrize(
    "media_type", ["application/json", "Application/JSON ; charset=utf-8", "application/json;"]
)
def test_json_may_have_parameters(media_type: str) -> None:
    assert send(Content_Type=media_type).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/info"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "https://localhost:8000.evil.example"},
        {"Origin": "http://[", "Host": "localhost"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": "http://localhost:8000"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost:8000"},
        {"Origin": "http://evil.example:8000", "Host": "evil.example:8000"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": "["},
        {"Host": ":"},
    ],
    ids=str,
)
def test_another_website_is_403(path: str, headers: dict[str, str]) -> None:
    assert_is_error(send(path, **headers), ErrorCode.FORBIDDEN)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8000"},
        {"Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        # Behind a reverse proxy that passes its own name on.
        {"Origin": "https://public.example", "Sec_Fetch_Site": "same-origin"},
        {"Host": "127.0.0.1:8000"},
        {"Host": "127.1.2.3"},
        {"Host": "[::1]:8000"},
        {"Host": "LOCALHOST"},
    ],
    ids=str,
)
def test_programs_and_the_services_own_page_are_answered(headers: dict[str, str]) -> None:
    assert send(**headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/ready"])
def test_pages_and_probes_are_open_to_links_from_anywhere(path: str) -> None:
    assert send(path, Sec_Fetch_Site="cross-site", Host="evil.example").status_code == 200


def test_a_service_on_all_interfaces_may_have_any_name() -> None:
    config = ServeConfig(host="0.0.0.0")
    assert send(config=config, Host="mbti.example").status_code == 200
    own = {"Host": "mbti.example", "Origin": "https://mbti.example"}
    assert send(config=config, **own).status_code == 200
    assert_is_error(send(config=config, Origin="https://evil.example"), ErrorCode.FORBIDDEN)


def test_an_allowed_website_is_answered_with_cors_headers_even_by_an_error() -> None:
    config = ServeConfig(allow_origins=(FRIEND,))
    allowed = {"Origin": FRIEND, "Sec_Fetch_Site": "cross-site"}
    for response in (
        send(config=config, **allowed),
        send(config=config, Content_Type="x", **allowed),
    ):
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "X-Bundle-Id" in response.headers["access-control-expose-headers"]
        assert response.headers["vary"] == "Origin"
    assert_is_error(
        send(config=config, Origin="https://evil.example", Sec_Fetch_Site="cross-site"),
        ErrorCode.FORBIDDEN,
    )
    assert "access-control-allow-origin" not in send(Origin=FRIEND).headers


def test_a_preflight_is_answered_as_the_allowed_websites_browser_asks() -> None:
    asks = {
        "Origin": FRIEND,
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization,content-type,x-bundle-id",
        "Access_Control_Request_Private_Network": "true",
    }
    config = ServeConfig(allow_origins=(FRIEND,))
    answer = send(method="OPTIONS", config=config, **asks)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "x-bundle-id"))
    asks["Origin"] = "https://evil.example"
    refused = send(method="OPTIONS", config=config, **asks)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_origins_are_given_as_browsers_send_them() -> None:
    config = load_run(None, ['serve.allow_origins=["https://a.example","http://b.example:3000"]'])
    assert config.serve.allow_origins == ("https://a.example", "http://b.example:3000")
    # Browsers name an origin in lower case, and without its scheme's own port.
    config = load_run(None, ['serve.allow_origins=["https://A.example:443","http://B.example:80"]'])
    assert config.serve.allow_origins == ("https://a.example", "http://b.example")
    for wrong in ("*", "a.example", "https://a.example/", "https://a.example/path", "null"):
        with pytest.raises(ConfigError, match="allow_origins"):
            load_run(None, [f'serve.allow_origins=["{wrong}"]'])
