"""Runs through TorchTrainer on a real local Ray."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pandas as pd
import pytest
from long_run import epochs_of
from processes import descendants
from safetensors.torch import load_file
from train_runs import attempts_of

from mbti_ray import MBTIClassifier
from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.predictor import Predictor
from mbti_ray.train import main as train

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def exported() -> Iterator[set[str]]:
    """The metrics of a run called `two` that Ray's exporter has shown so far."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            lines = httpx.get(url, timeout=60).text.splitlines()
            seen.update(
                line.partition("{")[0] for line in lines if 'run="two"' in line and "mbti_" in line
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def test_fit_on_two_elastic_workers_with_a_kill_and_a_damaged_checkpoint_is_the_run_of_one(
    when: Callable[..., threading.Thread],
    small_file: Path,
    tmp_path: Path,
    exported: set[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "two"
    damaged: list[Path] = []

    def kill_a_worker_and_damage_the_newest_checkpoint() -> None:
        os.kill(descendants("ray::RayTrainWorker")[1], signal.SIGKILL)
        while descendants("ray::RayTrainWorker"):
            time.sleep(0.02)
        # Of those that are complete: what was copied when a worker was lost is not in Ray's list.
        known = (folder / "checkpoints" / "checkpoint_manager_snapshot.json").read_text("utf-8")
        newest, *others = [
            c for c in checkpoints_under(folder / "checkpoints") if f'"{c.name}"' in known
        ]
        assert others
        with (newest / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        damaged.append(newest)

    killing = when(
        lambda: len(epochs_of(folder)) >= 3, kill_a_worker_and_damage_the_newest_checkpoint
    )
    settings = {
        "model.dropout": 0,
        "fit.epochs": 5,
        "fit.patience": None,
        "fit.monitor": "loss",
        "scoring.calibrate": False,
    }
    place = {"storage": str(tmp_path), "name": "two"}
    scaling = {"scaling.workers": [1, 2], "scaling.cpus": 1}
    frame = pd.read_csv(small_file)
    classifier = MBTIClassifier.fit(frame, settings={**settings, **scaling, **place})
    killing.join()
    (attempts,) = attempts_of("two/checkpoints")
    assert attempts >= 2
    notes = (folder / "notes.txt").read_text("utf-8").splitlines()
    assert any("lost or added; all began again" in n for n in notes)
    # Once for each time that Ray starts the workers again.
    (note,) = {n for n in notes if "damaged" in n}
    assert note.startswith(f"{damaged[0]}: checkpoint is damaged")
    assert note.endswith("resuming from the one before it")
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "scores.json",
        "checkpoints",
        "bundle",
    }
    assert epochs_of(folder) == [1, 2, 3, 4, 5]
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    # Every row counted once, the same gradients.
    (saved,) = (tmp_path / "frames").iterdir()
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items() if value != "loss"]
    config = load_run("quick", [f"data.source={saved}", "fit.monitor=loss", *values])
    data = prepare_dataset(config, tmp_path / "cache-of-one")
    alone = run(config, data, Worker())
    assert scores["test"] == pytest.approx(alone.test, abs=1e-4)
    weights = load_file(folder / "bundle" / "model.safetensors")
    for parameter, value in alone.model.state_dict().items():
        assert weights[parameter] == pytest.approx(value, abs=1e-3), parameter
    assert scores["test"]["rows"] == data.splits["test"].row_count
    assert Predictor.load(folder / "bundle").info["scores"]["test"] == scores["test"]
    assert saved.name in repr(classifier)
    again = MBTIClassifier.from_pretrained(folder)
    assert again.predict_proba("a quiet book").equal(classifier.predict_proba("a quiet book"))
    # What has ended stays for a while.
    for _ in range(40):
        if exported:
            break
        time.sleep(0.5)
    assert {"ray_mbti_val_accuracy", "ray_mbti_train_tokens_per_second"} <= exported
    # The name exists now.
    capfd.readouterr()
    assert train(["quick", f"data.source={small_file}", f"storage={tmp_path}", "name=two"]) == 2
    assert "--resume continues it" in capfd.readouterr().err
    assert train(["--resume", "optim.lr=1", f"storage={tmp_path}", "name=two"]) == 2
    assert "optim.lr: 0.003 -> 1.0" in capfd.readouterr().err


def test_more_workers_than_cpus_are_refused_in_one_line_with_nothing_written(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = [f"storage={tmp_path}", f"data.source={small_file}", "name=many"]
    assert train(["quick", "scaling.workers=64", *place]) == 2
    opening, *steps, error = capfd.readouterr().err.strip().splitlines()
    assert opening.startswith("mbti-ray ")
    assert all(step.endswith(" ...") for step in steps)
    assert "scaling.workers=64" in error
    assert not (tmp_path / "many").exists()


@pytest.mark.long
def test_a_run_that_diverges_is_not_retried_and_reports_what_to_change(
    small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = [f"storage={tmp_path}", f"data.source={small_file}", "name=wild"]
    assert train(["quick", "optim.lr=1e30", "optim.warmup_steps=0", *place]) == 2
    assert "optim.lr (now 1e+30)" in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "wild" / "bundle").exists()
