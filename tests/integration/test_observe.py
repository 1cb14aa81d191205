"""Experiment trackers: TensorBoard, MLflow, the profiler's trace."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import ConfigError

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_metric_of_every_epoch(
    quick: Build, data: Dataset, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    worker = Worker(folder=tmp_path)
    run(quick("fit.tracker=tensorboard"), data, worker)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "val/acc_mean", "speed/tokens_s"} <= set(events.Tags()["scalars"])
    shown = [(e.step, e.value) for e in events.Scalars("val/loss")]
    expected = [(line["step"], pytest.approx(line["val"]["loss"])) for line in worker.records]
    assert shown == expected


@pytest.mark.skipif(find_spec("mlflow") is None, reason="the extra mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_settings_and_metrics_and_a_resumed_run_continues_in_the_same_one(
    quick: Build, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    folder = tmp_path / "run"
    run(quick("fit.tracker=mlflow", "fit.epochs=1"), data, Worker(folder=folder))
    run(quick("fit.tracker=mlflow", "fit.epochs=2"), data, Worker(folder=folder))
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mbti_ray")
    (made,) = client.search_runs([experiment.experiment_id])
    assert made.data.params["optim.lr"] == "0.003"
    history = client.get_metric_history(made.info.run_id, "val.loss")
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    assert {m.step for m in history} == {json.loads(line)["step"] for line in lines}


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    quick: Build, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"fit\.tracker=mlflow: .* pip install 'mbti_ray\[mlflow"):
        run(quick("fit.tracker=mlflow"), data, Worker(folder=tmp_path))


def test_a_trace_records_the_steps_of_training(quick: Build, data: Dataset, tmp_path: Path) -> None:
    config = quick("fit.profile=true", "fit.batch_size=8", "fit.epochs=1")
    run(config, data, Worker(folder=tmp_path))
    events = json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::addmm", "Optimizer.step#AdamW.step"} & names
