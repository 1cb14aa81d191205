"""What happens to a cluster, made to happen: hosts that go, a cable, a notice, a killed driver.

Each file of tests has one cluster, and the hosts of this one are damaged one after the other; the
autoscaler of clusters/local.yaml starts Ray again on those that come back.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cluster import RUNS, Cluster, wait_until

pytestmark = [pytest.mark.hosts, pytest.mark.long]

TRAIN = ["python", "-m", "mbti_ray.train"]
TUNE = ["python", "-m", "mbti_ray.tune"]
ELASTIC = ["scaling.workers=[1,2]", "failure.grace_s=0", "fit.patience=null"]


def epochs_of(cluster: Cluster, name: str) -> list[int]:
    path = cluster.storage / name / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]


def complete_count(database: Path) -> int:
    """Trials that are COMPLETE, asked by one who only looks on."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            query = "select count(*) from trials where state = 'COMPLETE'"
            return int(opened.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.fixture(scope="module")
def source(cluster: Cluster, small_file: Path) -> str:
    """Few rows, where all hosts see them: an epoch is short, and a run is many of them."""
    shared = cluster.storage.parent / "small.csv"
    shutil.copy(small_file, shared)
    return f"data.source=/mnt/shared/{shared.name}"


def run_elastic(cluster: Cluster, source: str, name: str, fault: Callable[[], None]) -> None:
    """A run to which something happens in its middle comes to its end, no epoch lost or doubled."""
    epochs = 60
    place = [source, f"storage={RUNS}", f"name={name}", f"fit.epochs={epochs}"]
    cluster.begin(*TRAIN, "quick", *place, *ELASTIC, "scoring.baselines=false", job=name)
    wait_until(lambda: len(epochs_of(cluster, name)) >= 3, 240, lambda: cluster.job("logs", name))
    fault()
    assert len(epochs_of(cluster, name)) < epochs
    cluster.finish(name, timeout_s=420)
    assert epochs_of(cluster, name) == list(range(1, epochs + 1))
    assert (cluster.storage / name / "bundle/bundle.json").is_file()


def test_a_run_whose_host_is_about_to_be_taken_away_saves_and_goes_on_elsewhere(
    cluster: Cluster, source: str
) -> None:
    leaving = cluster.workers[1]
    folder = "/tmp/metadata"
    leaving.run("mkdir", "-p", folder)
    script = Path(__file__).with_name("metadata.py")
    log = cluster.storage.parent / "metadata.log"
    leaving.start("python", str(script), folder, log=log)
    probe = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8169"]
    wait_until(lambda: not leaving.run(*probe, check=False).returncode, 30, "the metadata")
    watch = "source ~/cluster/node/environment.sh; bash ~/cluster/node/leave_on_notice.sh"
    leaving.environment |= {
        "METADATA_URL": "http://127.0.0.1:8169",
        "RAY_HEAD_IP": cluster.head.address,
        "POLL_S": "1",
        "LEFT_S": "5",
    }
    said = cluster.storage.parent / "notice.log"
    leaving.start("bash", "-c", watch, log=said)
    wait_until(
        lambda: "waiting for notice" in said.read_text("utf-8"), 30, lambda: said.read_text("utf-8")
    )

    def notice() -> None:
        leaving.run("touch", f"{folder}/notice")
        wait_until(
            lambda: (cluster.storage / "leaving/notes.txt").exists(),
            60,
            lambda: said.read_text("utf-8") + cluster.job("logs", "leaving"),
        )

    run_elastic(cluster, source, "leaving", notice)
    assert "Ray knows" in said.read_text("utf-8")
    note = (cluster.storage / "leaving/notes.txt").read_text("utf-8")
    assert "about to be preempted; saved a checkpoint" in note


def test_a_run_goes_on_after_one_of_its_hosts_is_cut_from_the_network(
    cluster: Cluster, source: str
) -> None:
    wait_until(lambda: len(cluster.alive()) == 3, 240, "all hosts back")
    cut = cluster.workers[1]
    try:
        run_elastic(cluster, source, "cut", cut.cut)
    finally:
        cut.join()


def test_a_study_whose_driver_is_killed_on_the_head_is_resumed_there(
    cluster: Cluster, source: str
) -> None:
    place = [f"storage={RUNS}", "name=killed"]
    study = ["study.trials=6", "fit.epochs=3", "study.scheduler=none", source, *place]
    cluster.begin(*TUNE, "tune_configs/quick.yaml", *study, job="killed")
    database = cluster.storage / "killed/optuna.db"
    wait_until(lambda: complete_count(database) >= 2, 300, lambda: cluster.job("logs", "killed"))
    (driver, *_) = [
        line.split()[0] for line in cluster.head.processes("mbti_ray.tune") if "sh -c" not in line
    ]
    cluster.head.run("kill", "-KILL", driver)
    wait_until(lambda: cluster.job_state("killed") == "FAILED", 60, "the job's end")
    cluster.submit(*TUNE, "--resume", *place, job="resumed", timeout_s=420)
    assert complete_count(database) == 6
    assert (cluster.storage / "killed/best/bundle/bundle.json").is_file()


def test_a_run_goes_on_after_one_of_its_hosts_loses_power(cluster: Cluster, source: str) -> None:
    wait_until(lambda: len(cluster.alive()) == 3, 240, "all hosts back")
    run_elastic(cluster, source, "power", cluster.workers[1].kill)
