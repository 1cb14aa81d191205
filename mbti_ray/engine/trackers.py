"""Watching a run with tools that people have: TensorBoard, MLflow, a profiler's trace.

All of it is optional, on rank 0, and beside the run: metrics.jsonl is written in any case. Knows
reports' lines and the run's folder; must not know models.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from mbti_ray.config.resume import leaves
from mbti_ray.config.schema import RunConfig
from mbti_ray.engine.worker import Line, Worker
from mbti_ray.errors import ConfigError

_PARTS = ("train", "val", "speed")
# Steps of a trace: the first ones allocate, the next ones warm the profiler up.
_WAIT, _WARM_UP, _TRACED = 5, 2, 5


class Tracker(Protocol):
    """Where figures go besides metrics.jsonl."""

    def show(self, step: int, figures: Mapping[str, float]) -> None: ...


class _NoTracker:
    def show(self, step: int, figures: Mapping[str, float]) -> None:
        pass


NO_TRACKER: Tracker = _NoTracker()
Trace = torch.profiler.profile


class _TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        # What a killed run had written after the checkpoint that it goes on from is hidden.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class _MLflow:
    """A run on the server that MLFLOW_TRACKING_URI names, or in ./mlruns; resumed by its id."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        try:
            import mlflow
        except ImportError:
            raise _missing("mlflow") from None
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / "mlflow.txt"
        self._client = mlflow.MlflowClient()
        if mark.exists():
            self._id = mark.read_text("utf-8").strip()
            return
        found = self._client.get_experiment_by_name("mbti_ray")
        experiment = found.experiment_id if found else self._client.create_experiment("mbti_ray")
        self._id = self._client.create_run(experiment, run_name=folder.name).info.run_id
        mark.write_text(self._id + "\n", "utf-8")
        for address, value in leaves(config.model_dump(mode="json")).items():
            self._client.log_param(self._id, address, value)

    def show(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, name.replace("/", "."), value, step=step)


def build_tracker(config: RunConfig, worker: Worker, *, first_step: int) -> Tracker:
    """The tracker that `fit.tracker` names; on other ranks, and without a folder, none.

    Raises:
        ConfigError: Its package is not installed.
    """
    if worker.rank != 0 or worker.folder is None or config.fit.tracker == "none":
        return NO_TRACKER
    if config.fit.tracker == "tensorboard":
        return _TensorBoard(worker.folder, first_step)
    return _MLflow(worker.folder, config)


def figures_of(line: Line) -> dict[str, float]:
    """The numbers of a report's line, as train/loss, val/acc_mean, speed/texts_s and so on."""
    return {f"{part}/{name}": float(value) for part in _PARTS for name, value in line[part].items()}


@contextmanager
def tracing(config: RunConfig, worker: Worker) -> Iterator[Trace | None]:
    """A profiler whose `step()` is called after each optimiser step, or None.

    Writes trace.json (for ui.perfetto.dev or chrome://tracing) into the run's folder.
    """
    if not config.fit.profile or worker.rank != 0 or worker.folder is None:
        yield None
        return
    path = worker.folder / "trace.json"
    with torch.profiler.profile(
        schedule=torch.profiler.schedule(wait=_WAIT, warmup=_WARM_UP, active=_TRACED, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        record_shapes=True,
    ) as profiler:
        yield profiler


def _missing(name: str) -> ConfigError:
    return ConfigError(
        f"fit.tracker={name}: the package is not installed; pip install 'mbti_ray[{name}]'"
    )
