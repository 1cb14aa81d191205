"""`ray up` of the on-premise file, the same commands as on a laptop, and `ray down`.

The tests stand in the order in which a user does these things, and share one cluster.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import ROOT, RUNS, Cluster, wait_until
from lan import SHARED

pytestmark = pytest.mark.hosts


def workers_with(cluster: Cluster, pattern: str) -> int:
    """On how many workers there is such a file of Ray's session."""
    look = ["bash", "-c", f"ls /tmp/ray/session_latest/{pattern}"]
    return sum(not host.run(*look, check=False).returncode for host in cluster.workers)


def ask(cluster: Cluster) -> Any:
    """What the service answers another host; None where there is none."""
    url = f"http://{cluster.head.address}:8000/predict"
    kind = ["--header", "Content-Type: application/json"]
    question = [*kind, "--data", '{"inputs": "I would rather read than go out."}', url]
    done = cluster.laptop.run(
        "curl", "--silent", "--fail", "--max-time", "10", *question, check=False
    )
    return None if done.returncode else json.loads(done.stdout)


def test_ray_up_makes_one_cluster_of_three_hosts(cluster: Cluster) -> None:
    cpus = {node["NodeManagerAddress"]: node["Resources"].get("CPU") for node in cluster.alive()}
    # Nothing is scheduled on the head.
    assert cpus == {cluster.head.address: None} | {host.address: 1 for host in cluster.workers}


def test_every_host_has_the_token_and_nobody_gets_in_with_another(cluster: Cluster) -> None:
    hosts = [cluster.laptop, cluster.head, *cluster.workers]
    tokens = {host.run("cat", "/home/ray/.ray/auth_token").stdout for host in hosts}
    assert len(tokens) == 1
    (token,) = tokens
    assert token not in (cluster.storage.parent / "cluster.yaml").read_text("utf-8")
    assert token not in cluster.head.run("cat", "/home/ray/ray_bootstrap_config.yaml").stdout
    address = f"{cluster.head.address}:6379"
    for key, said in (("RAY_AUTH_TOKEN=" + "0" * 64, "invalid"), ("RAY_AUTH_MODE=disabled", "")):
        line = f"RAY_AUTH_MODE=token {key} timeout 60 ray start --address={address} --num-cpus=1"
        joined = cluster.laptop.run("bash", "-c", line, check=False)
        assert joined.returncode, joined.stdout
        assert said in joined.stdout.lower()
    assert len(cluster.alive()) == 3


def test_jobs_are_taken_on_the_head_itself_only(cluster: Cluster) -> None:
    probe = ["bash", "-c", f"exec 3<>/dev/tcp/{cluster.head.address}/8265"]
    assert cluster.workers[0].run(*probe, check=False).returncode
    assert not cluster.head.run(
        "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8265", check=False
    ).returncode


def test_the_doctor_finds_nothing_wrong_on_any_host(cluster: Cluster) -> None:
    command = ["python", "-m", "mbti_ray.doctor", "--cluster", "--json", "quick"]
    said = cluster.submit(*command, f"storage={RUNS}", "scaling.workers=2", job="doctor")
    (line,) = [text for text in said.splitlines() if text.startswith("{")]
    found = json.loads(line)["checks"]
    assert not [check for check in found if check["state"] == "wrong"]
    assert "network" in {check["check"] for check in found}


def test_a_run_of_two_hosts_is_sent_from_a_third_and_leaves_a_bundle(cluster: Cluster) -> None:
    command = ["python", "-m", "mbti_ray.train", "quick", f"storage={RUNS}", "name=two"]
    said = cluster.submit(*command, "scaling.workers=2", "fit.epochs=3", job="two")
    assert "2 workers" in said
    assert f"mbti_ray.serve {RUNS}/two\n" in said
    assert workers_with(cluster, "logs/train/ray-train-app-worker-*") == 2
    assert (cluster.storage / "two/bundle/bundle.json").is_file()
    lines = (cluster.storage / "two/metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> dict[str, str]:
    """s3://bucket on the laptop: what the environment of a job says, so that it finds it."""
    log = cluster.storage.parent / "bucket.log"
    cluster.laptop.start("moto_server", "-H", "0.0.0.0", "-p", "5000", log=log)
    server = f"http://{cluster.laptop.address}:5000"
    make = ["curl", "--silent", "--fail", "--request", "PUT", f"{server}/bucket"]
    wait_until(lambda: not cluster.laptop.run(*make, check=False).returncode, 60, log.read_text)
    return {
        "AWS_ACCESS_KEY_ID": "of-no-account",
        "AWS_SECRET_ACCESS_KEY": "of-no-account",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }


def test_a_run_of_two_hosts_is_kept_in_a_bucket(cluster: Cluster, bucket: dict[str, str]) -> None:
    place = ["storage=s3://bucket/runs", "name=far"]
    command = ["python", "-m", "mbti_ray.train", "quick", *place, "scaling.workers=2"]
    said = cluster.submit(*command, "fit.epochs=2", job="far", environment=bucket)
    assert "mbti_ray.serve s3://bucket/runs/far\n" in said
    get = [f"{bucket['AWS_ENDPOINT_URL']}/bucket/runs/far/bundle/bundle.json"]
    assert json.loads(cluster.laptop.run("curl", "--silent", "--fail", *get).stdout)


def test_a_bundle_in_a_bucket_predicts_on_hosts_that_never_saw_it(
    cluster: Cluster, bucket: dict[str, str], small_file: Path
) -> None:
    shared = cluster.storage.parent
    shutil.copy(small_file, shared / "small.csv")
    # The head, which the command runs on, computes nothing itself.
    output = "/mnt/shared/predicted.csv"
    place = ["--input", "/mnt/shared/small.csv", "--output", output]
    command = ["python", "-m", "mbti_ray.predict", "s3://bucket/runs/far", *place, "--json"]
    said = cluster.submit(*command, job="predict", environment=bucket)
    (line,) = [text for text in said.splitlines() if text.startswith("{")]
    found = json.loads(line)
    assert found["bundle"] == "s3://bucket/runs/far/bundle"
    lines = (shared / "predicted.csv").read_text("utf-8").splitlines()
    assert len(lines) == found["rows"] + 1 > 10


def test_a_study_tries_on_both_hosts_and_leaves_its_best(cluster: Cluster) -> None:
    command = ["python", "-m", "mbti_ray.tune", "tune_configs/quick.yaml", f"storage={RUNS}"]
    said = cluster.submit(
        *command,
        "name=study",
        "study.trials=4",
        "fit.epochs=2",
        "study.scheduler=none",
        job="study",
    )
    assert "2 at once" in said
    assert (cluster.storage / "study/best/bundle/bundle.json").is_file()
    assert (cluster.storage / "study/report.html").is_file()


def test_the_service_answers_other_hosts_until_its_job_is_stopped(
    cluster: Cluster, bucket: dict[str, str]
) -> None:
    # A CPU each: a replica on each worker, and both bring themselves the bundle.
    command = ["python", "-m", "mbti_ray.serve", "s3://bucket/runs/far", "serve.host=0.0.0.0"]
    cluster.begin(*command, "serve.replicas=2", job="service", environment=bucket)
    wait_until(lambda: ask(cluster) is not None, 180, lambda: cluster.job("logs", "service"))
    assert len(ask(cluster)["type"]) == 4
    copies = ["bash", "-c", "ls ~/.cache/mbti_ray/bundles/*/bundle.json"]
    brought = lambda: all(not w.run(*copies, check=False).returncode for w in cluster.workers)  # noqa: E731
    wait_until(brought, 60, "a copy on each worker")
    cluster.job("stop", "service")
    wait_until(lambda: ask(cluster) is None, 60, "the end")


def test_the_service_is_deployed_from_a_file_and_stays_without_a_command(cluster: Cluster) -> None:
    shared, laptop = cluster.storage.parent, cluster.laptop
    pack = ["git", "-C", str(ROOT), "archive", "--format", "zip", "--prefix", "mbti_ray/"]
    subprocess.run([*pack, "--output", str(shared / "code.zip"), "HEAD"], check=True)
    tree = yaml.safe_load((ROOT / "clusters/serve.yaml").read_text("utf-8"))
    (app,) = tree["applications"]
    app["runtime_env"]["working_dir"] = f"file://{SHARED}/code.zip"
    app["args"] = {"bundle": f"{RUNS}/two", "serve.replicas": "2"}
    (shared / "serve.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    there = "RAY_AUTH_MODE=token RAY_DASHBOARD_ADDRESS=http://127.0.0.1:8265 serve"
    laptop.run("bash", "-c", f"{there} deploy {SHARED}/serve.yaml")
    status = lambda: laptop.run("bash", "-c", f"{there} status", check=False).stdout  # noqa: E731
    wait_until(lambda: "status: RUNNING\n" in status().partition("applications:")[2], 180, status)
    assert len(ask(cluster)["type"]) == 4
    laptop.run("bash", "-c", f"{there} shutdown --yes")


def test_ray_down_leaves_nothing_running(cluster: Cluster) -> None:
    cluster.ray("down", "--yes")
    # Ray has no hand on the workers of an on-premise cluster: a script of ours sees the head gone.
    wait_until(lambda: not cluster.left_running(), 90, cluster.left_running)


def test_nothing_of_the_hosts_is_seen_on_the_machine(cluster: Cluster) -> None:
    for name in ("/home/ray", "/mnt/shared", "/mnt/keys"):
        assert not Path(name).exists()
