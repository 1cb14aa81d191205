"""One run through TorchTrainer: the loop of `engine` in one or several Ray workers."""

import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import (
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    ScalingConfig,
)
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer, get_device

from mbti_ray.config import RunConfig, config_from_dict
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.checkpoint import checkpoints_under
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Line, Request, Worker, append_line
from mbti_ray.errors import MbtiRayError, RunError, StoppedError, one_line
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.train.metrics import Gauges
from mbti_ray.on_ray.train.progress import Show, board
from mbti_ray.on_ray.train.remote_checkpoints import Fetched, storage_of, watched
from mbti_ray.runs.run_folder import RunFolder, open_run

_KEPT_CHECKPOINTS = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class TrainWorker(Worker):
    """A rank inside TorchTrainer; Ray has made the process group already."""

    def __init__(
        self, folder: RunFolder, name: str, *, board: Any, is_stop_requested: Callable[[], bool]
    ) -> None:
        super().__init__(device=get_device(), folder=folder.path)
        self._run = folder
        self._board = board
        self._name = name
        self._gauges = Gauges(name)
        self._is_warned = False
        self._is_stop_requested = is_stop_requested

    def report(self, line: Line | None, checkpoint: Path | None, *, wait: bool = True) -> None:
        if line is not None and self.rank == 0:
            append_line(self._run.metrics, line)
            self._run.push()
            self._gauges.show(line)
            log_line(self._name, line)
        ray.train.report(
            flat(line or {}),
            checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None,
            checkpoint_upload_mode=CheckpointUploadMode.SYNC
            if wait
            else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=checkpoint is not None,
        )

    def checkpoints(self) -> Sequence[Path]:
        # Ray knows the newest that was uploaded; the others lie beside it.
        newest = ray.train.get_checkpoint()
        if newest is None:
            return []
        name = Path(newest.path).name
        home = self._run.location
        if isinstance(home, Path):
            path = Path(newest.path)
            return [path, *(p for p in checkpoints_under(path.parent) if p != path)]
        kept = home / self._run.checkpoints.name
        return Fetched([kept / name, *(p for p in checkpoints_under(kept) if p.name != name)])

    def note(self, text: str) -> None:
        super().note(self._run.rewrite_paths(text))
        self._keep()

    def rewind(self, step: int) -> None:
        super().rewind(step)
        self._keep()

    def _keep(self) -> None:
        if self.rank == 0:
            self._run.push()

    def request(self) -> Request | None:
        if self._is_stop_requested():
            return Request.STOP
        if not self._is_warned and ray.train.get_preemption_info() is not None:
            self._is_warned = True
            self.note("a machine of this run is about to be taken away; saved a checkpoint")
            return Request.SAVE
        return None

    def progress(self, done: int, total: int, note: str) -> None:
        if self._board is not None:
            self._board.write.remote(done, total, note)


def train(
    config: RunConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    *,
    name: str | None = None,
    show: Show | None = None,
    callbacks: list[Any] | None = None,
) -> None:
    """Train one run to its end; scores.json and bundle/ are in its folder afterwards.

    Goes on from the folder's last checkpoint where there is one, and restarts up to
    `failure.max_failures` times when a worker is lost.

    Args:
        name: What people find it by: the end of its folder's path, by default the last part.
        show: Told how far the run is, now and then.
        callbacks: Ray Train callbacks, such as the one that reports to a surrounding trial.

    SIGTERM makes it save a checkpoint and stop, and so does a file called stop in its folder.

    Raises:
        RunError: The run gave up for a reason that the user can mend.
        StoppedError: It was asked to stop.
    """
    with board(show) as handle, stopping_on_sigterm(folder):
        name = name or folder.location.name
        trainer = _trainer(config, data, folder, resources, handle, callbacks, name=name)
        failure = None
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            failure = error
        folder.pull()
        reason = _left_reason(folder) or (_reason_of(failure, folder) if failure else None)
        if reason:
            raise reason from None
        if failure:
            raise failure


def _left_reason(folder: RunFolder) -> MbtiRayError | None:
    """What a worker left behind when it gave up."""
    if not folder.failure.exists():
        return None
    kind = StoppedError if folder.stop.exists() else RunError
    return kind(folder.failure.read_text("utf-8").strip())


def _reason_of(error: ray.train.TrainingFailedError, folder: RunFolder) -> MbtiRayError | None:
    """What the user can mend of a failure of the workers, if that is what it was."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, MbtiRayError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return RunError(
                f"a checkpoint could not be kept ({os.strerror(cause.errno)}); make room, and go "
                "on with --resume"
            )
        if isinstance(cause, OSError) and cause.errno is None and folder.remote:
            return RunError(
                f"{folder.location}: a checkpoint could not be saved "
                f"({one_line(cause, limit=200)}); fix that, then use --resume"
            )
    return None


def _trainer(
    config: RunConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    handle: Any,
    callbacks: list[Any] | None,
    *,
    name: str,
) -> TorchTrainer:
    place = folder.location
    for _ in name.split("/"):
        place = place.parent
    return TorchTrainer(
        _loop,
        train_loop_config={
            "config": config.model_dump(mode="json", exclude={"study", "search"}),
            "data": ray.put(data),
            "folder": folder.location,
            "name": name,
            "threads": resources.cpus,
            "board": handle,
        },
        scaling_config=ScalingConfig(
            num_workers=config.scaling.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=resources.as_dict(),
        ),
        run_config=RayRunConfig(
            # A path, since Ray knows one name for what the dashboard shows and for the folder.
            name=f"{name}/{folder.checkpoints.name}",
            **storage_of(place),
            failure_config=FailureConfig(
                max_failures=config.failure.max_failures,
                preemption_grace_s=config.failure.grace_s,
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            callbacks=callbacks,
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _loop(settings: dict[str, Any]) -> None:
    with open_run(settings["folder"]) as folder:
        if folder.failure.exists():
            # Restarts are for lost workers; what the user has to mend would only fail again.
            return
        torch.set_num_threads(settings["threads"])
        quiet_ray()
        start_malloc_trim_thread()
        with leaving_the_reason(folder), watched(folder) as is_stop_requested:
            config = config_from_dict(settings["config"])
            worker = TrainWorker(
                folder,
                settings["name"],
                board=settings["board"],
                is_stop_requested=is_stop_requested,
            )
            data: Dataset = ray.get(settings["data"])
            outcome = run(config, data, worker)
            if worker.rank == 0:
                finalize_run(config, data, outcome, folder)
                folder.push(replace=[folder.bundle.name])


@contextmanager
def stopping_on_sigterm(folder: RunFolder) -> Iterator[None]:
    """SIGTERM to this process asks the run to save and stop, instead of ending the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: folder.request_stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def leaving_the_reason(folder: RunFolder) -> Iterator[None]:
    """Leave the sentence behind when a run cannot go on, for the driver and for a restart."""
    try:
        yield
    except MbtiRayError as error:
        # A full disk may be the very reason.
        with suppress(OSError):
            folder.failure.write_text(folder.rewrite_paths(str(error)) + "\n", "utf-8")
            folder.push()
        raise


def quiet_ray() -> None:
    """Keep Ray from printing every report and every checkpoint of this process."""
    # One of its loggers is named after a file, so only the root's level reaches it.
    for name in (None, "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_line(name: str, line: Line) -> None:
    """How far a run is, in the log that the dashboard shows beside this process."""
    train, val = line["train"], line["val"]
    # Not print, which Train takes for itself.
    sys.stdout.write(
        f"{name} epoch {line['epoch']}: loss {train['loss']:.4f}, validation loss "
        f"{val['loss']:.4f}, accuracy {val['acc_mean']:.4f}\n"
    )
    sys.stdout.flush()


def flat(line: Line) -> dict[str, Any]:
    """A report's line as Ray wants it: the validation scores beside the rest, no nesting."""
    rest = {k: v for k, v in line.items() if k not in ("train", "val")}
    train = {f"train_{key}": value for key, value in line.get("train", {}).items()}
    scores: dict[str, Any] = dict(line.get("val", {}))
    return json.loads(json.dumps({**scores, **train, **rest}))  # type: ignore[no-any-return]
