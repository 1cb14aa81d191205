"""The seam between the training loop and where it runs.

The loop asks its worker for everything that depends on how many there are: the wrapped model, sums
over ranks, and where reports go. `Worker` itself is one process, alone or a member of a torch
process group; `on_ray` derives the ones that live inside TorchTrainer and inside a Tune trial.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from enum import Enum
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mbti_ray.engine.checkpoint import UNFINISHED, checkpoints_under

Line = Mapping[str, Any]

# Our buffers are constants (position ids): nothing to send. torch 2.13 renamed the option.
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers": False
}


class Request(Enum):
    """What is asked of a run from outside while it trains; the later one wins."""

    SAVE = "save"
    STOP = "stop"


class Worker:
    """One rank of a run.

    Attributes:
        rank: This process, from 0; rank 0 writes.
        world_size: Number of ranks.
        device: Where the model and the batches go.
        folder: Run folder that rank 0 writes to; None keeps nothing.
    """

    def __init__(self, *, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.world_size = dist.get_world_size() if joined else 1
        self.device = torch.device(device)
        self.folder = folder
        self.lines: list[Line] = []

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model as it is to be called in training: wrapped where there are several ranks.

        Called again whenever other parameters are trained, because the wrapper counts them once.
        """
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, **_NO_BUFFERS)

    def reduce(self, counts: Tensor) -> Tensor:
        """The sum over all ranks, the same on each; every rank calls it equally often."""
        if self.world_size == 1:
            return counts
        # Double precision goes through the device that the process group speaks on.
        summed = counts.to(self.device)
        dist.all_reduce(summed)
        return summed.to(counts.device)

    def report(self, line: Line | None, checkpoint: Path | None, *, wait: bool = True) -> None:
        """Take an evaluation's line, a checkpoint folder, or both; a barrier over the ranks.

        Args:
            checkpoint: Only rank 0 passes one; the worker moves it away, or deletes it.
            wait: Return when the checkpoint is safe; else it may be on its way still.
        """
        if line is not None and self.rank == 0:
            self.lines.append(line)
            if self.folder is not None:
                append_line(self.folder / "metrics.jsonl", line)
        if checkpoint is not None and self.folder is not None:
            store = self.folder / "checkpoints"
            store.mkdir(parents=True, exist_ok=True)
            # Its name is its step and what made it unique.
            kept = store / checkpoint.name.rpartition("-")[0]
            aside = kept.with_name(kept.name + UNFINISHED)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.move(checkpoint, aside)
            shutil.rmtree(kept, ignore_errors=True)
            aside.rename(kept)
        elif checkpoint is not None:
            shutil.rmtree(checkpoint)
        if self.world_size > 1:
            dist.barrier()

    def checkpoints(self) -> Sequence[Path]:
        """The checkpoints to go on from, newest first, the same on every rank.

        They are looked at one after the other, each when the one before it was damaged.
        """
        return [] if self.folder is None else checkpoints_under(self.folder / "checkpoints")

    def note(self, text: str) -> None:
        """Say something that the user should know of a run, though it goes on."""
        if self.rank == 0 and self.folder is not None:
            with (self.folder / "notes.txt").open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def rewind(self, step: int) -> None:
        """Forget what was reported after `step`, which the run is about to do again."""
        if self.folder is not None and self.rank == 0:
            drop_lines_after(self.folder / "metrics.jsonl", step)

    def request(self) -> Request | None:
        """What this rank is asked for, if anything; looked at every few steps."""
        return None

    def progress(self, done: int, total: int, note: str) -> None:
        """Told after every optimiser step by rank 0; shows nothing here."""


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to a step; a line torn by a crash goes too."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["step"] <= step:
            kept.append(text + "\n")
    path.write_text("".join(kept), "utf-8")


def append_line(path: Path, line: Line) -> None:
    """Add one JSON line to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
