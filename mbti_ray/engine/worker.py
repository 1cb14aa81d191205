"""The interface between the training loop and the process that it runs in.

The loop asks its worker for everything that depends on the number of ranks or on where results go:
sums over ranks, reports and checkpoints. `Worker` itself is one process, alone or a member of a
torch process group; `on_ray` derives the workers that live inside TorchTrainer and inside a Tune
trial. Must not know configs, epochs or data.
"""

import shutil
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from mbti_ray.engine.checkpoint import UNFINISHED, checkpoints_under
from mbti_ray.engine.metrics_record import MetricsRecord, append_record, truncate_metrics_after


class Interruption(Enum):
    """What a run is asked to do while it trains; a later member overrides an earlier one."""

    SAVE = "save"
    STOP = "stop"


class Worker:
    """One rank of a run.

    Attributes:
        rank: Counted from 0; rank 0 writes the files.
        folder: Run folder that rank 0 writes to; None keeps nothing.
        records: Metrics that were reported, oldest first.
    """

    def __init__(self, *, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        has_group = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if has_group else 0
        self.world_size = dist.get_world_size() if has_group else 1
        self.device = torch.device(device)
        self.folder = folder
        self.records: list[MetricsRecord] = []

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all ranks, the same on each; every rank calls it equally often."""
        if self.world_size == 1:
            return values
        # NCCL only reduces tensors on the GPU.
        summed = values.to(self.device)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def report(
        self, record: MetricsRecord | None, checkpoint: Path | None, *, wait: bool = True
    ) -> None:
        """Keep an epoch's metrics, a checkpoint folder, or both; a barrier over the ranks.

        Args:
            checkpoint: Passed by rank 0 only; the worker moves or deletes it.
            wait: Return only when the checkpoint is stored; otherwise it may still be uploading.
        """
        if record is not None and self.rank == 0:
            self.records.append(record)
            if self.folder is not None:
                append_record(self.folder / "metrics.jsonl", record)
        if checkpoint is not None and self.folder is not None:
            store = self.folder / "checkpoints"
            store.mkdir(parents=True, exist_ok=True)
            # Its name is the step and a suffix that makes it unique.
            target = store / checkpoint.name.rpartition("-")[0]
            temporary = target.with_name(target.name + UNFINISHED)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.move(checkpoint, temporary)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        elif checkpoint is not None:
            shutil.rmtree(checkpoint)
        if self.world_size > 1:
            dist.barrier()

    def checkpoints(self) -> Iterable[Path]:
        """The checkpoints to resume from, newest first, the same on every rank.

        The loop takes the first one that is not damaged.
        """
        return [] if self.folder is None else checkpoints_under(self.folder / "checkpoints")

    def note(self, text: str) -> None:
        """Record something that the user should know about a run that continues."""
        if self.rank == 0 and self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "notes.txt").open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def truncate_metrics_after(self, step: int) -> None:
        """Drop the records after `step`, which the resumed run is about to repeat."""
        if self.folder is not None and self.rank == 0:
            truncate_metrics_after(self.folder / "metrics.jsonl", step)

    def poll_interruption(self) -> Interruption | None:
        """What this rank is asked to do, if anything; polled every few steps."""
        return None

    def show_progress(self, done: int, total: int, note: str) -> None:
        """Called by rank 0 every few optimizer steps; shows nothing here."""
