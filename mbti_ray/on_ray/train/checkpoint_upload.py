"""The checkpoint upload: Ray Train moves rank 0's checkpoint to the run's storage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointUploadMode


def report_and_upload_checkpoint(
    metrics: Mapping[str, Any], checkpoint: Path | None, *, wait: bool
) -> None:
    """Report to Ray Train, which uploads the checkpoint and deletes the local copy.

    A barrier over the ranks: each of them calls it equally often.

    Args:
        checkpoint: Passed by rank 0 only.
        wait: Return only when the upload is done.
    """
    ray.train.report(
        dict(metrics),
        checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None,
        checkpoint_upload_mode=CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=checkpoint is not None,
    )
