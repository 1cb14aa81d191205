"""The HTTP service on a real Ray, through Ray's own proxy."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from processes import descendants

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import BundleError, ClusterError
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.serve import main as serve_command
from service_command import REPLICA, Load, free_port

pytestmark = [
    pytest.mark.cluster,
    # Raised when ray.serve 2.60 is imported with pydantic 2.14.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning"),
]

JSON_TYPE = {"Content-Type": "application/json"}
LONG = "a long evening with many words " * 60


@pytest.fixture(scope="module")
def client(bundle: Path, damaged_bundle: Path, ray_cluster: None) -> Iterator[httpx.Client]:
    """A client of a running service; a damaged bundle was refused before it started."""
    from ray import serve

    from mbti_ray.on_ray.serve.service import start_service

    config = ServeConfig(port=free_port(), max_queued=4, max_body_bytes=200_000)
    with pytest.raises(BundleError, match="does not reproduce its golden logits"):
        start_service(damaged_bundle, config)
    url = start_service(bundle, config)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as made:
        yield made
    serve.shutdown()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 1}, "serve.gpus=1; the cluster has 2 CPUs and 0 GPUs, enough for 0"),
        ({"replicas": 2, "cpus": 2}, "serve.replicas=2: each needs serve.cpus=2"),
    ],
)
def test_replicas_that_do_not_fit_are_refused_at_once(
    bundle: Path, ray_cluster: None, changes: dict[str, int], message: str
) -> None:
    from mbti_ray.on_ray.serve.service import start_service

    with pytest.raises(ClusterError, match=message):
        start_service(bundle, ServeConfig.model_validate(changes))


def error_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_results_are_the_predictors_whatever_the_other_rows_of_the_batch(
    client: httpx.Client, bundle: Path
) -> None:
    texts = [f"a quiet evening with book number {n} " * (1 + 5 * n) for n in range(20)]
    posts = [text[:200] for text in texts[:5]]
    with ThreadPoolExecutor(3) as pool:
        several = pool.submit(client.post, "/predict", json={"inputs": texts})
        user = pool.submit(client.post, "/predict", json={"posts": posts})
        one = pool.submit(client.post, "/predict", json={"inputs": texts[3]})
    predictor = Predictor.load(bundle)
    expected = predictor.predict([[text] for text in texts], whole=False)
    answers = [*several.result().json(), user.result().json(), one.result().json()]
    expected += [*predictor.predict([posts], whole=True), expected[3]]
    for answer, prediction in zip(answers, expected, strict=True):
        assert answer["type"] == prediction.type
        assert answer["truncated"] == prediction.truncated
        assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
    assert one.result().headers["x-bundle-id"] == predictor.bundle_id
    assert client.get("/info").json()["bundle_id"] == predictor.bundle_id


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", (400, "not_json")),
        (b'{"inputs": " "}', (422, "invalid")),
        (json.dumps({"inputs": ["a"] * 257}).encode(), (413, "too_large")),
        (b"a" * 5_000_000, (413, "too_large")),
    ],
    ids=["not json", "empty", "many texts", "many bytes"],
)
def test_malformed_requests_get_the_published_error(
    client: httpx.Client, content: bytes, expected: tuple[int, str]
) -> None:
    assert error_code(client.post("/predict", content=content, headers=JSON_TYPE)) == expected


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/ready", "/info"])
def test_pages_and_probes_respond(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_unknown_paths_and_methods_have_the_error_schema(client: httpx.Client) -> None:
    assert error_code(client.get("/nothing")) == (404, "not_found")
    assert error_code(client.get("/predict")) == (405, "method_not_allowed")


def test_under_overload_requests_get_200_or_429_while_probes_respond(
    client: httpx.Client,
) -> None:
    body = {"inputs": [LONG] * 100}
    with ThreadPoolExecutor(24) as pool:
        crowd = [pool.submit(client.post, "/predict", json=body) for _ in range(24)]
        probe = client.get("/health")
    assert probe.status_code == 200
    responses = [future.result() for future in crowd]
    counts = Counter(response.status_code for response in responses)
    assert set(counts) == {200, 429}
    for response in responses:
        if response.status_code == 429:
            assert error_code(response) == (429, "queue_full")
            assert int(response.headers["retry-after"]) >= 1
    assert client.post("/predict", json={"inputs": "a"}).status_code == 200


def test_a_text_too_long_is_truncated_or_refused_as_requested(
    client: httpx.Client,
) -> None:
    assert client.post("/predict", json={"inputs": LONG}).json()["truncated"]
    refused = client.post("/predict", json={"inputs": ["short", LONG], "truncate": False})
    assert error_code(refused) == (413, "too_large")
    assert "inputs[1]" in refused.json()["error"]["message"]
    assert client.post("/predict", json={"inputs": "short", "truncate": False}).is_success


def test_a_response_has_server_timing_and_the_influence_of_each_post(
    client: httpx.Client, bundle: Path
) -> None:
    posts = ["a party with everyone", "a quiet book", "a list of plans"]
    response = client.post("/predict", json={"posts": posts, "influence": True})
    stages = [part.split(";dur=") for part in response.headers["server-timing"].split(", ")]
    assert [name for name, _ in stages] == ["tokenise", "queue", "forward"]
    assert float(stages[2][1]) > 0
    users = [posts, posts[1:], [posts[0], posts[2]], posts[:2]]
    full, *less = Predictor.load(bundle).predict(users, whole=True)
    for found, without in zip(response.json()["influence"], less, strict=True):
        expected = {k: p - without.probabilities[k] for k, p in full.probabilities.items()}
        assert found == pytest.approx(expected, abs=1e-5)


def test_no_text_of_a_user_is_in_a_log(client: httpx.Client) -> None:
    from ray._private.worker import _global_node

    secret = "xylophonequarrel"
    client.post("/predict", json={"inputs": secret})
    client.post("/predict", json={"inputs": [secret, 1], secret: secret})
    client.post("/predict", content=f'{{"{secret}'.encode(), headers=JSON_TYPE)
    logs = list(Path(_global_node.get_logs_dir_path()).rglob("*.*"))
    assert any("replica" in path.name for path in logs)
    found = [p for p in logs if p.is_file() and secret.encode() in p.read_bytes()]
    assert found == []
    replicas = [path for path in logs if path.name.startswith("replica_")]
    lines = [line for path in replicas for line in path.read_text("utf-8").splitlines()]
    requests = [line for line in map(json.loads, lines) if line.get("route") == "/predict"]
    assert {"asctime", "request_id", "replica", "message"} <= requests[-1].keys()


def roll_out(client: httpx.Client, *words: str) -> int:
    """The command in this process, which is connected to the service's Ray."""
    return serve_command([*words, f"serve.port={client.base_url.port}"])


@pytest.fixture
def in_this_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


@pytest.mark.usefixtures("in_this_ray")
def test_a_bundle_that_is_damaged_or_worse_on_labeled_people_is_not_rolled_out(
    client: httpx.Client,
    bundle: Path,
    damaged_bundle: Path,
    worse_bundle: Path,
    new_people: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert roll_out(client, str(damaged_bundle), "--roll-out") == 2
    assert "does not reproduce its golden logits" in capfd.readouterr().err
    assert roll_out(client, str(worse_bundle), "--roll-out", "--gate", str(new_people)) == 2
    served = load_manifest(bundle).id
    assert f"is worse than {served}, which is served, on 60 people" in capfd.readouterr().err
    assert client.get("/info").json()["bundle_id"] == served


@pytest.mark.usefixtures("in_this_ray")
def test_a_canary_is_served_and_a_header_selects_it(
    client: httpx.Client, bundle: Path, other_bundle: Path
) -> None:
    beside = [f"serve.beside={other_bundle}", "serve.beside_share=0.5"]
    assert roll_out(client, str(bundle), "--roll-out", *beside) == 0
    second = load_manifest(other_bundle).id
    canary = client.get("/info").json()["beside"]
    assert (canary["bundle_id"], canary["share"]) == (second, 0.5)
    answers = [client.post("/predict", json={"inputs": f"text {n}"}) for n in range(40)]
    assert {a.headers["x-bundle-id"] for a in answers} == {second, load_manifest(bundle).id}
    selected = {"X-Bundle-Id": second}
    chosen = client.post("/predict", json={"inputs": "a"}, headers=selected)
    assert chosen.headers["x-bundle-id"] == second
    unknown = client.post("/predict", json={"inputs": "a"}, headers={"X-Bundle-Id": "none"})
    assert unknown.status_code == 404


@pytest.mark.usefixtures("in_this_ray")
def test_a_lost_replica_is_restarted_with_the_bundle_rolled_out(
    client: httpx.Client, other_bundle: Path
) -> None:
    assert roll_out(client, str(other_bundle), "--roll-out") == 0
    (replica,) = descendants(REPLICA)
    os.kill(replica, signal.SIGKILL)
    load = Load(str(client.base_url), clients=1, pause_s=0.1)
    with load.running():
        while load.statuses[200] < 5:
            load.wait_for(1)
    assert set(load.bundles) == {load_manifest(other_bundle).id}
    assert descendants(REPLICA) != [replica]


def test_settings_fixed_at_start_are_refused(
    client: httpx.Client, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert roll_out(client, str(bundle), "--roll-out", "serve.replicas=2") == 2
    assert "cannot change while the service runs" in capfd.readouterr().err
    assert roll_out(client, "--roll-back", "serve.beside_share=0.5") == 2
