"""Runs through TorchTrainer on a real local Ray."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pandas as pd
import pytest
from long_run import epochs_of
from processes import descendants

from mbti_ray import MBTIClassifier
from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.predictor import Predictor
from mbti_ray.train import main as train

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

Build = Callable[..., RunConfig]


def test_two_elastic_workers_of_which_one_is_killed_train_one_run_to_a_bundle_that_serves(
    when: Callable[..., threading.Thread],
    small_file: Path,
    tmp_path: Path,
    quick: Build,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = ["model.dropout=0", "fit.epochs=4", "fit.patience=null", "scoring.calibrate=false"]
    place = [f"storage={tmp_path}", f"data.source={small_file}", "name=two", "--json"]
    folder = tmp_path / "two"
    killing = when(
        lambda: len(epochs_of(folder)) >= 2,
        lambda: os.kill(descendants("ray::RayTrainWorker")[1], signal.SIGKILL),
    )
    elastic = ["fit.monitor=loss", "scaling.workers=[1,2]", "scaling.cpus=1"]
    assert train(["quick", *elastic, *settings, *place]) == 0
    killing.join()
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert {p.name for p in folder.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "scores.json",
        "checkpoints",
        "bundle",
    }
    # It cost the steps since the checkpoint.
    assert epochs_of(folder) == [1, 2, 3, 4]
    assert json.loads((folder / "scores.json").read_text("utf-8")) == answer["scores"]
    # The same run without Ray and with one worker: every row counted once, the same gradients.
    config = quick(*settings)
    data = prepare_dataset(config, tmp_path / "cache-of-one")
    alone = run(config, data, Worker())
    assert answer["scores"]["test"] == pytest.approx(alone.test, abs=1e-4)
    assert answer["scores"]["test"]["rows"] == data.splits["test"].row_count
    assert Predictor.load(folder / "bundle").info["scores"]["test"] == answer["scores"]["test"]
    # The name exists now.
    assert train(["quick", *place]) == 2
    assert "--resume continues it" in capfd.readouterr().err
    assert train(["--resume", "optim.lr=1", *place[0:1], "name=two"]) == 2
    assert "optim.lr: 0.003 -> 1.0" in capfd.readouterr().err


def test_fit_trains_a_data_frame_and_its_metrics_reach_ray_s_exporter(
    small_file: Path, tmp_path: Path
) -> None:
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            lines = httpx.get(url).text.splitlines()
            seen.update(
                line.partition("{")[0] for line in lines if 'run="seen"' in line and "mbti_" in line
            )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    settings = {"fit.epochs": 12, "fit.patience": None, "scaling.cpus": 1}
    place = {"storage": str(tmp_path), "name": "seen"}
    classifier = MBTIClassifier.fit(pd.read_csv(small_file), settings={**settings, **place})
    # What has ended stays for a while.
    for _ in range(40):
        if seen:
            break
        time.sleep(0.5)
    ended.set()
    assert {"ray_mbti_val_accuracy", "ray_mbti_train_tokens_per_second"} <= seen
    (frame,) = (tmp_path / "frames").iterdir()
    assert frame.name in repr(classifier)
    again = MBTIClassifier.from_pretrained(tmp_path / "seen")
    assert again.predict_proba("a quiet book").equal(classifier.predict_proba("a quiet book"))


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
