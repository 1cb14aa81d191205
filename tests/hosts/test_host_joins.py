"""A host that comes while a study goes on is used by it."""

from collections import Counter
from pathlib import Path

import optuna
import pytest
from cluster import RUNS, Cluster, wait_until
from lan import Switch

pytestmark = [pytest.mark.hosts, pytest.mark.long]

TRIALS = 10


def workers_of(folder: Path) -> list[str]:
    """The host on which each trial ran."""
    found = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'optuna.db'}")
    said = [trial.user_attrs.get("worker", "") for trial in found.get_trials(deepcopy=False)]
    return [worker.partition(":")[0] for worker in said if worker]


def test_a_host_that_joins_in_the_middle_of_a_study_runs_trials_of_it(switch: Switch) -> None:
    cluster = Cluster(switch, workers=2)
    # The second is a machine that the autoscaler may take, and has not yet.
    cluster.up(joining=1, min_workers=1)
    place = [f"storage={RUNS}", "name=grows"]
    study = [f"study.trials={TRIALS}", "study.max_concurrent=2", "study.scheduler=none"]
    command = ["python", "-m", "mbti_ray.tune", "tune_configs/quick.yaml", *place, *study]
    # Long enough for the autoscaler to see that a trial waits, and to start Ray there.
    cluster.begin(*command, "fit.epochs=12", "fit.patience=null", job="grows")
    wait_until(lambda: len(cluster.alive()) == 3, 240, lambda: cluster.job("logs", "grows"))
    said = cluster.finish("grows", timeout_s=420)
    hosts = workers_of(cluster.storage / "grows")
    assert len(hosts) == TRIALS, said
    counts = Counter(hosts)
    assert len(counts) == 2, hosts
    assert min(counts.values()) >= 2, hosts
