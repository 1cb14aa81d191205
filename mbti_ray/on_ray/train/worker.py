"""The training worker: what Ray runs on every rank of a TorchTrainer.

`train_loop` is the function that the trainer sends; `TrainWorker` connects the engine's loop to
Ray: reports, checkpoint uploads, stop requests, preemption. Imports neither the predictor nor
serving: only rank 0 needs them, when training is done.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import CheckpointUploadMode
from ray.train.torch import get_device

from mbti_ray.config import RunConfig
from mbti_ray.engine.cross_fit import cross_fit
from mbti_ray.engine.loop import run
from mbti_ray.engine.metrics_record import MetricsRecord, append_record
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import MbtiRayError, StoppedError
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.shared_dataset import SharedDataset
from mbti_ray.on_ray.train.metrics import EpochLogger, flat_report
from mbti_ray.on_ray.train.progress import ProgressSender
from mbti_ray.on_ray.train.remote_checkpoints import outlast, stored_checkpoints, watch_for_stop
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.storage.atomic import write_text
from mbti_ray.storage.remote import Location


class TrainWorker(Worker):
    """A rank inside TorchTrainer; Ray has already created the process group."""

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        progress: ProgressSender | None,
        is_stop_requested: Callable[[], bool],
    ) -> None:
        super().__init__(device=get_device(), folder=folder.path)
        self._run = folder
        self._progress = progress
        self._is_stop_requested = is_stop_requested
        self._logger = EpochLogger(name)
        self._storage = ray.train.get_context().get_storage()
        self._has_seen_preemption = False

    def report(
        self, record: MetricsRecord | None, checkpoint: Path | None, *, wait: bool = True
    ) -> None:
        if record is not None and self.rank == 0:
            append_record(self._run.metrics, record)
            self._push()
            self._logger.log(record)
            if self._progress is not None:
                self._progress.add_epoch(record)
        mode = CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC
        ray.train.report(
            flat_report(record) if record else {},
            checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None,
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=checkpoint is not None,
            checkpoint_upload_fn=self._upload,
        )

    def _upload(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        upload = partial(self._storage.persist_current_checkpoint, checkpoint, name)
        return outlast(upload, self._run.location)

    def checkpoints(self) -> Iterable[Path]:
        return stored_checkpoints(ray.train.get_checkpoint(), self._run.location)

    def note(self, text: str) -> None:
        super().note(self._run.rewrite_paths(text))
        self._push()

    def truncate_metrics_after(self, step: int) -> None:
        super().truncate_metrics_after(step)
        self._push()

    def _push(self) -> None:
        if self.rank == 0:
            outlast(self._run.push, self._run.location)

    def poll_interruption(self) -> Interruption | None:
        if self._is_stop_requested():
            return Interruption.STOP
        if not self._has_seen_preemption and ray.train.get_preemption_info() is not None:
            self._has_seen_preemption = True
            self.note("a machine of this run is about to be preempted; saved a checkpoint")
            return Interruption.SAVE
        return None

    def show_progress(self, done: int, total: int, note: str) -> None:
        if self._progress is not None:
            self._progress.set(done, total, note)


def train_loop(
    config: RunConfig,
    shared: SharedDataset,
    location: Location,
    *,
    name: str,
    threads: int,
    progress: ProgressSender | None,
) -> None:
    """One rank of a run, from its latest checkpoint to its bundle."""
    with open_run(location) as folder:
        if folder.failure.exists():
            # Ray restarts workers that were lost; an error that the user has to fix would recur.
            return
        torch.set_num_threads(threads)
        silence_ray()
        start_malloc_trim_thread()
        with recording_failure(folder), watch_for_stop(folder) as is_stop_requested:
            worker = TrainWorker(folder, name, progress, is_stop_requested)
            if worker.rank == 0 and progress is not None and progress.is_restart():
                now = f"{datetime.now():%Y-%m-%d %H:%M}"
                worker.note(f"{now}: workers were lost or added; all began again at a checkpoint")
            data = shared.load()
            outcome = run(config, data, worker, keeps_last_epoch=config.data.trains_on_all)
            cross_fitted = cross_fit(config, data, worker, epochs=outcome.progress.best_epoch)
            if worker.rank == 0:
                # Imported here because it loads the predictor, for the golden logits.
                from mbti_ray.inference.finalize import finalize_run

                finalize_run(config, data, outcome, folder, cross_fitted=cross_fitted)
                outlast(partial(folder.push, replace=[folder.bundle.name]), folder.location)


@contextmanager
def recording_failure(folder: RunFolder) -> Iterator[None]:
    """Write the reason why a run ends to failure.txt, for the driver and for a restart.

    An error has Ray start the workers again, so none is raised unless another rank waits for this.
    """
    try:
        yield
    except MbtiRayError as error:
        # The reason may be a full disk.
        with suppress(OSError):
            write_text(folder.failure, folder.rewrite_paths(str(error)) + "\n")
            folder.push()
            # All ranks stop at the same step.
            if isinstance(error, StoppedError) or ray.train.get_context().get_world_size() == 1:
                return
        raise


def silence_ray() -> None:
    """Keep Ray from logging every report and every checkpoint of this process."""
    # One of its loggers is named after a file, so only the root's level reaches it.
    for name in (None, "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
