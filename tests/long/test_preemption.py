"""A machine says that it will be taken away: the run saves at once, and goes on elsewhere."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mbti_ray.config import load_run
from mbti_ray.data.prepare import prepare_dataset
from mbti_ray.engine.fit import run
from mbti_ray.engine.worker import Worker
from mbti_ray.train import main as train

pytestmark = pytest.mark.long

EPOCHS = 12
# No checkpoint but those of epochs and of the notice.
SETTINGS = [f"fit.epochs={EPOCHS}", "fit.patience=null", "fit.batch_size=2", "scaling.cpus=1"]
GRACE_S = 40


def epochs_of(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["epoch"] for line in lines if line.endswith("}")]


def test_notice_of_preemption_saves_and_the_run_ends_as_if_nothing_had_happened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    folder = tmp_path / "taken"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        going = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)

        def take_away() -> None:
            while len(epochs_of(folder)) < 2:
                time.sleep(0.05)
            cluster.add_node(num_cpus=1)
            ray_command = [str(Path(sys.executable).parent / "ray"), "drain-node"]
            notice = {
                "--address": cluster.address,
                "--node-id": going.node_id,
                "--reason": "DRAIN_NODE_REASON_PREEMPTION",
                "--reason-message": "spot instance",
                "--deadline-remaining-seconds": str(GRACE_S),
            }
            words = [word for pair in notice.items() for word in pair]
            subprocess.run([*ray_command, *words], check=True, capture_output=True)

        taking = threading.Thread(target=take_away, daemon=True)
        taking.start()
        place = [f"storage={tmp_path}", "name=taken", "failure.grace_s=5"]
        assert train(["quick", *SETTINGS, *place]) == 0
        taking.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    said = capfd.readouterr().out
    assert "a machine of this run is about to be taken away; saved a checkpoint" in said
    assert epochs_of(folder) == list(range(1, EPOCHS + 1))
    torch.set_num_threads(1)
    config = load_run("quick", SETTINGS)
    expected = run(config, prepare_dataset(config, tmp_path / "cache"), Worker()).model.state_dict()
    got = load_file(folder / "bundle" / "model.safetensors")
    assert all(torch.equal(got[name], expected[name]) for name in expected)
