"""A real Prometheus scrapes a real Ray with a service, a run and a study in it."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dashboard_queries import PROMETHEUS_CONFIG, queries_of_grafana, queries_of_the_page
from mbti_ray.config.serve_section import ServeConfig
from service_command import free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("ray_cluster"),
    # Raised when ray.serve 2.60 is imported with pydantic 2.14.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning"),
]

# Metrics take ten seconds to their node and five to Prometheus, and a rate needs two samples.
PATIENCE_S = 180
ENDLESS = ["fit.epochs=100000", "fit.patience=null", "scaling.cpus=1", "study.scheduler=none"]


@pytest.fixture
def prometheus(tmp_path: Path, ray_cluster: None) -> Iterator[httpx.Client]:
    """A client of a Prometheus with the config from docs/dashboard.md."""
    from ray._private.worker import _global_node

    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus on PATH (Debian: apt-get install prometheus)")
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text("utf-8"))
    (nodes,) = config["scrape_configs"][0]["file_sd_configs"]
    (place,) = map(Path, nodes["files"])
    assert place.is_file()
    # Another Ray on this machine may have overwritten that file; this one's copy is the same.
    nodes["files"] = [str(Path(_global_node.get_session_dir_path()) / place.name)]
    config["global"]["scrape_interval"] = "5s"
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), "utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with (
        (tmp_path / "prometheus.log").open("w") as log,
        subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log) as process,
        httpx.Client(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client
        process.terminate()


@pytest.fixture
def url(bundle: Path, ray_cluster: None) -> Iterator[str]:
    """The URL of a service."""
    from ray import serve

    from mbti_ray.on_ray.serve.service import start_service

    yield start_service(bundle, ServeConfig(port=free_port()))
    serve.shutdown()


def test_every_query_returns_numbers_and_runs_have_the_documented_names(
    prometheus: httpx.Client, url: str, small_file: Path, tmp_path: Path
) -> None:
    place = [f"storage={tmp_path}", f"data.source={small_file}"]
    with running("train", "quick", "name=seen", *ENDLESS[:3], *place):
        wait_for_numbers(prometheus, [*queries_of_grafana(), *queries_of_the_page()], url)
        assert {job.metadata.get("job_name") for job in jobs()} >= {"train seen"}
        assert "seen/checkpoints" in names_of_runs()
    with running("tune", "name=rates", "study.trials=2", *ENDLESS, *place):
        trial = 'ray_mbti_val_accuracy{run="rates/trials/trial-0000"}'
        wait_for_numbers(prometheus, [trial], url)
        assert {job.metadata.get("job_name") for job in jobs()} >= {"tune rates"}
        (log,) = logs_of_actors("rates")
        assert "rates/trials/trial-0000 {" in log
        assert "rates/trials/trial-0000 epoch 1: " in log


@contextmanager
def running(verb: str, *words: str) -> Iterator[None]:
    """A command in the Ray of this test, stopped at the end."""
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", f"mbti_ray.{verb}", *words]
    with subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address}) as process:
        try:
            yield
        finally:
            # One SIGINT lets a study finish its trials.
            for number in (signal.SIGINT, signal.SIGINT) if verb == "tune" else (signal.SIGTERM,):
                process.send_signal(number)
                time.sleep(1)
            process.wait(120)


def wait_for_numbers(prometheus: httpx.Client, queries: list[str], url: str) -> None:
    """Until each query has returned a number, while the service answers and refuses."""
    missing, end = dict.fromkeys(queries), time.monotonic() + PATIENCE_S
    while missing and time.monotonic() < end:
        for body in ({"inputs": "a quiet evening"}, {"input": "a quiet evening"}):
            httpx.post(f"{url}/predict", json=body, trust_env=False)
        time.sleep(1)
        for query in list(missing):
            if any(map(math.isfinite, found(prometheus, query))):
                del missing[query]
    assert not missing


def found(prometheus: httpx.Client, query: str) -> list[float]:
    try:
        response = prometheus.get("/api/v1/query", params={"query": query})
    except httpx.ConnectError:
        # It has only just started.
        return []
    answer = response.json()
    # Prometheus must be able to parse the query.
    assert answer["status"] == "success" or response.status_code == 503, answer
    return [float(series["value"][1]) for series in answer.get("data", {}).get("result", ())]


def jobs() -> list[Any]:
    import ray
    from ray.util.state import list_jobs

    return list_jobs(ray.get_runtime_context().gcs_address, detail=True)


def names_of_runs() -> set[str]:
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    return {run.name for run in ray.get(get_state_actor().get_train_runs.remote()).values()}


def logs_of_actors(name: str) -> list[str]:
    """The logs of the live actors of a study."""
    import ray
    from ray.util.state import get_log, list_actors

    address = ray.get_runtime_context().gcs_address
    found = list_actors(address, filters=[("state", "=", "ALIVE")], detail=True)
    ids = [actor.actor_id for actor in found if actor.repr_name == name]
    return ["".join(get_log(address, actor_id=actor)) for actor in ids]
