"""One run through TorchTrainer, seen from the driver: start it, wait for it, explain a failure.

What runs on the workers is in `worker`. Must not know how a model is trained.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.errors import MbtiRayError, RunError, StoppedError, one_line
from mbti_ray.on_ray.cluster.resources import Resources
from mbti_ray.on_ray.shared_dataset import SharedDataset
from mbti_ray.on_ray.signals import handle_signals
from mbti_ray.on_ray.train.progress import Display, relay_progress
from mbti_ray.on_ray.train.remote_checkpoints import ray_storage
from mbti_ray.on_ray.train.worker import train_loop
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage.atomic import FULL

_KEPT_CHECKPOINTS = 2


def train(
    config: RunConfig,
    data: Dataset,
    folder: RunFolder,
    resources: Resources,
    *,
    name: str,
    display: Display | None = None,
    callbacks: list[Any] | None = None,
    notify: Callable[[str], None] = print,
) -> None:
    """Train one run to its end; scores.json and bundle/ are in its folder afterwards.

    Resumes from the folder's last checkpoint, and restarts up to `failure.max_failures` times when
    a worker is lost. Ctrl-C, SIGTERM, or a file called stop in its folder, makes it save and stop;
    a second Ctrl-C raises KeyboardInterrupt. StoppedError where it was stopped, RunError where it
    failed for a reason that the user can fix.

    Args:
        name: For Ray's dashboard and metrics: the end of the folder's path.
        callbacks: Of Ray Train, such as the one that reports to a surrounding trial.
        notify: Called with messages for the user.
    """
    with relay_progress(display) as progress, stop_on_signals(folder, notify) as numbers:
        _delete_damaged_snapshot(folder)
        shared = SharedDataset.of(data)
        # Not as `train_loop_config`, which Ray's controller would import and unpickle as well.
        loop = partial(
            train_loop,
            config,
            shared,
            folder.location,
            name=name,
            threads=resources.cpus,
            progress=progress,
        )
        trainer = _build_trainer(loop, name, config, folder, resources, callbacks=callbacks)
        failure = None
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            failure = error
        folder.pull()
        if folder.failure.exists():
            reason = folder.failure.read_text("utf-8").strip()
            raise StoppedError(reason, *numbers) if folder.stop.exists() else RunError(reason)
        if failure:
            raise _explain(failure, folder) or failure


def _delete_damaged_snapshot(folder: RunFolder) -> None:
    """Ray fails on a snapshot that a full disk left empty; the workers find checkpoints without."""
    snapshot = folder.checkpoints / "checkpoint_manager_snapshot.json"
    if folder.remote is None and snapshot.exists():
        try:
            json.loads(snapshot.read_text("utf-8"))
        except ValueError:
            snapshot.unlink()


def _explain(error: ray.train.TrainingFailedError, folder: RunFolder) -> MbtiRayError | None:
    """What the user can fix about a failure; None for anything else.

    A disk may fill while a worker saves a checkpoint, or while Ray's controller saves what it has.
    """
    failures = [*getattr(error, "worker_failures", {}).values()]
    for failure in [*failures, getattr(error, "controller_failure", None)]:
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, MbtiRayError):
            return cause
        is_storage = isinstance(cause, OSError) and (
            cause.errno in FULL or (cause.errno is None and folder.remote)
        )
        if is_storage:
            return RunError(
                f"{folder.location}: a checkpoint could not be saved "
                f"({cause.strerror or one_line(cause, limit=200)}); free some space or fix the "
                "storage, then resume with --resume"
            )
    return None


def _build_trainer(
    loop: Callable[[], None],
    name: str,
    config: RunConfig,
    folder: RunFolder,
    each: Resources,
    **more: Any,
) -> TorchTrainer:
    parent = folder.location
    for _ in name.split("/"):
        parent = parent.parent
    return _Trainer(
        loop,
        scaling_config=ScalingConfig(
            num_workers=config.scaling.workers,
            use_gpu=each.gpus > 0,
            resources_per_worker=each.as_dict(),
        ),
        run_config=RayRunConfig(
            # A path: Ray uses one name both in the dashboard and as the folder.
            name=f"{name}/{folder.checkpoints.name}",
            **ray_storage(parent),
            failure_config=FailureConfig(
                max_failures=config.failure.max_failures,
                preemption_grace_s=config.failure.grace_s,
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            **more,
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


class _Trainer(TorchTrainer):  # type: ignore[misc]
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves SIGINT to `stop_on_signals`; Ray's own handler exits with 1 and saves nothing."""


@contextmanager
def stop_on_signals(folder: RunFolder, notify: Callable[[str], None]) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM makes the run save and stop; yields a list with its number."""
    received: list[int] = []

    def stop(number: int) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            received.append(number)
            notify(
                "saving a checkpoint at the next step, then stopping; --resume continues from it; "
                "Ctrl-C again stops at once"
            )
            folder.request_stop()

    with handle_signals(stop):
        yield received
