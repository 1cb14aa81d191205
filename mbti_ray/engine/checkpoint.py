"""Checkpoints: the resumable state of a run, written as a whole and read without pickle.

A checkpoint folder holds
    model.safetensors   the current weights; of a frozen encoder none
    best.safetensors    the weights of the best evaluation, where they differ
    optimizer.pt        AdamW's moments and the loss scale, readable with `weights_only`
    progress.json       the position, the best score, the state of early stopping

It holds no random state: the randomness of every step is a function of the seed, the step and
the rank (see `step`), so a run resumes bit for bit from its position alone. Must not know where
checkpoints are stored: folders are anything with the methods of a path.
"""

import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mbti_ray.errors import RunError, one_line

StateDict = dict[str, Tensor]

# Suffix of a folder that is still being written.
UNFINISHED = ".part"
_FILES = ("model.safetensors", "optimizer.pt", "progress.json")
_READ_ERRORS = (
    *(OSError, SafetensorError, ValueError, TypeError, RuntimeError, EOFError),
    pickle.UnpicklingError,
)


# A pathlib.Path, or anything with the same methods.
Folder = TypeVar("Folder")


@dataclass
class Progress:
    """The position of a run; counts are of what is finished.

    Attributes:
        skipped: Optimizer steps without an update: an overflow, or a loss that is not finite.
        nonfinite: Optimizer steps whose loss was inf or nan.
        sums: Over the current epoch's instances (windows, or rows): the training loss, and the
            number of correct answers for each of E/I, S/N, T/F, J/P.
        windows: Instances seen in the current epoch.
        seconds: Time spent in optimizer steps, over all epochs and restarts.
        best: Best value of the monitored score; `best_scores` are all scores of that epoch.
        stopped: Early stopping has ended the run.
        epochs: Those that it was to train for.
        precision: What the run trains in, resolved.
        encoder: A hash of the frozen encoder that the weights belong to; empty if it is among them.
        history: The record of each epoch, oldest first.
    """

    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    skipped: int = 0
    nonfinite: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)
    windows: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)
    epochs_without_improvement: int = 0
    stopped: bool = False
    epochs: int | None = None
    precision: str = ""
    encoder: str = ""
    history: list[Any] = field(default_factory=list)

    @property
    def is_best(self) -> bool:
        """Whether the current weights are those of the best evaluation."""
        return self.epoch_step == 0 and self.epochs_without_improvement == 0


@dataclass
class Checkpoint:
    """Everything a run resumes from; `best` is None where the current weights are the best."""

    model: StateDict
    best: StateDict | None
    optimizer: dict[str, Any]
    progress: Progress


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into an empty folder; progress.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_state(checkpoint.model, folder / "model.safetensors")
    if checkpoint.best is not None:
        _save_state(checkpoint.best, folder / "best.safetensors")
    # By a path torch writes itself, and does not say why it cannot.
    with (folder / "optimizer.pt").open("wb") as file:
        torch.save(checkpoint.optimizer, file)
    (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress)), "utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; RunError where one of its files is missing or damaged."""
    best = folder / "best.safetensors"
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text("utf-8")))
        # A copy that was cut short may lack it, and the current weights are not the best.
        has_best = best.exists() or (progress.best is not None and not progress.is_best)
        return Checkpoint(
            model=load_file(folder / "model.safetensors"),
            best=load_file(best) if has_best else None,
            optimizer=torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"),
            progress=progress,
        )
    except _READ_ERRORS as error:
        raise RunError(
            f"{folder}: checkpoint is damaged ({one_line(error, limit=120)}); "
            "delete the folder to resume from the one before it, or start again with --fresh"
        ) from None


def checkpoints_under(folder: Folder) -> list[Folder]:
    """The complete checkpoints under `folder`, the one with the most steps first."""
    path: Any = folder
    steps = {file.parent: _step_of(file.parent) for file in path.rglob("progress.json")}
    complete = {place: step for place, step in steps.items() if step is not None}
    return sorted(complete, key=lambda place: complete[place], reverse=True)


def _step_of(folder: Any) -> int | None:
    """The step of a checkpoint, or None where a crash has left only part of one."""
    if folder.name.endswith(UNFINISHED) or not all((folder / f).is_file() for f in _FILES):
        return None
    try:
        return int(json.loads((folder / "progress.json").read_text("utf-8"))["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _save_state(state: StateDict, path: Path) -> None:
    # Tied weights share memory, which the format refuses: each name gets a copy of its own.
    save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, path)
