"""A host of the service loses power while people ask it."""

import json
import time
from pathlib import Path

import pytest
from cluster import RUNS, Cluster, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long]

CLIENTS = 4


def test_a_host_of_the_service_that_loses_power_costs_the_requests_in_it(cluster: Cluster) -> None:
    train = ["python", "-m", "mbti_ray.train", "quick", f"storage={RUNS}", "name=model"]
    cluster.submit(*train, "fit.epochs=2", "scoring.baselines=false", job="model")
    serve = ["python", "-m", "mbti_ray.serve", f"{RUNS}/model", "serve.host=0.0.0.0"]
    # A CPU each: one on each worker.
    cluster.begin(*serve, "serve.replicas=2", job="service")
    url = f"http://{cluster.head.address}:8000"
    ready = ["curl", "--silent", "--fail", "--max-time", "5", f"{url}/ready"]
    wait_until(
        lambda: not cluster.laptop.run(*ready, check=False).returncode,
        240,
        lambda: cluster.job("logs", "service"),
    )
    shared, load = cluster.storage.parent, Path(__file__).with_name("load.py")
    asking = cluster.laptop.start(
        *["python", str(load), f"{url}/predict", str(CLIENTS), "60", "/mnt/shared/load.jsonl"],
        log=shared / "load.log",
    )
    time.sleep(15)
    lost = time.time()
    cluster.workers[1].kill()
    assert asking.wait(180) == 0, (shared / "load.log").read_text("utf-8")
    lines = [json.loads(s) for s in (shared / "load.jsonl").read_text("utf-8").splitlines()]
    failed = [line for line in lines if line["status"] != 200]
    before = [line for line in lines if line["ended"] < lost]
    assert before
    assert all(line["status"] == 200 for line in before)
    # Those that were in it, or were sent there before anything could show that it is gone; HAProxy
    # sends most to where fewest wait, so that these are few.
    assert len(failed) <= CLIENTS, failed
    assert all(line["began"] < lost + 15 for line in failed), (lost, failed)
    assert sum(line["began"] > lost + 15 and line["status"] == 200 for line in lines) >= CLIENTS
