"""Experiment trackers (TensorBoard, MLflow) and the profiler's trace.

All of it is optional and on rank 0 only; metrics.jsonl is written in any case. Knows metrics
and the run folder; must not know models.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from mbti_ray.config.resume import flatten
from mbti_ray.config.schema import RunConfig
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import ConfigError
from mbti_ray.storage.atomic import write_text

# Steps that the profiler skips (they allocate), warms up with, and records.
_SKIPPED, _WARM_UP, _RECORDED = 5, 2, 5

Profiler = torch.profiler.profile


class TensorBoardTracker:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        # Hides what a killed run logged after the checkpoint that it resumes from.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class MLflowTracker:
    """A run on the server of MLFLOW_TRACKING_URI, or in ./mlruns; resumed by its id."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        try:
            import mlflow
        except ImportError:
            raise _missing("mlflow") from None
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "mlflow.txt"
        self._client = mlflow.MlflowClient()
        if id_file.exists():
            self._id = id_file.read_text("utf-8").strip()
            return
        found = self._client.get_experiment_by_name("mbti_ray")
        experiment = found.experiment_id if found else self._client.create_experiment("mbti_ray")
        self._id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        write_text(id_file, self._id + "\n")
        for address, value in flatten(config.model_dump(mode="json")).items():
            self._client.log_param(self._id, address, value)

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name.replace("/", "."), value, step=step)


Tracker = TensorBoardTracker | MLflowTracker


def build_tracker(config: RunConfig, worker: Worker, *, first_step: int) -> Tracker | None:
    """The tracker of `fit.tracker`; None on ranks above 0 and without a run folder."""
    if worker.rank != 0 or worker.folder is None or config.fit.tracker == "none":
        return None
    if config.fit.tracker == "tensorboard":
        return TensorBoardTracker(worker.folder, first_step)
    return MLflowTracker(worker.folder, config)


def profiling(config: RunConfig, worker: Worker) -> AbstractContextManager[Profiler | None]:
    """A profiler whose `step()` has to be called after each optimizer step, or None.

    Writes trace.json (for ui.perfetto.dev or chrome://tracing) into the run folder.
    """
    if not config.fit.profile or worker.rank != 0 or worker.folder is None:
        return nullcontext()
    path = str(worker.folder / "trace.json")
    steps = torch.profiler.schedule(wait=_SKIPPED, warmup=_WARM_UP, active=_RECORDED, repeat=1)
    return torch.profiler.profile(
        schedule=steps,
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(path),
        record_shapes=True,
    )


def _missing(name: str) -> ConfigError:
    return ConfigError(
        f"fit.tracker={name}: the package is not installed; pip install 'mbti_ray[{name}]'"
    )
