"""The resumable state of a run: written whole, read without pickle.

A checkpoint folder holds
    model.safetensors   the weights now
    best.safetensors    the weights of the best evaluation, when those are others
    optimizer.pt        AdamW moments and the loss scale, readable with `weights_only`
    progress.json       the position, the best score, what early stopping has counted

There is no random state in it: every step's randomness is a function of the seed, the step and
the rank (see `step`), so a run continues bit for bit from its position alone.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mbti_ray.errors import RunError, one_line
from mbti_ray.storage.remote import Location, RemotePath

State = dict[str, Tensor]

# Ending of a folder that is still being written.
UNFINISHED = ".part"
_FILES = ("model.safetensors", "optimizer.pt", "progress.json")


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: Epochs finished.
        step: Optimiser steps finished in all.
        epoch_step: Optimiser steps finished in the current epoch.
        skipped: Optimiser steps left out, by loss scaling or for a loss that is no number.
        nonfinite: Optimiser steps whose loss was no number.
        sums: Of the current epoch's windows: the training loss, and how often each of E/I, S/N,
            T/F, J/P was right.
        windows: Windows seen in the current epoch.
        seconds: Time spent in optimiser steps, over all epochs and restarts.
        best: Best value of the monitored score, with its epoch; None before the first evaluation.
        stale: Evaluations since the best one.
        stopped: Early stopping has decided.
        history: What was reported at the end of each epoch, oldest first.
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
    stale: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """Everything that a run goes on from; `best` is None when the weights now are the best."""

    model: State
    best: State | None
    optimizer: dict[str, object]
    progress: Progress


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into an empty folder; progress.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    _save_state(checkpoint.model, folder / "model.safetensors")
    if checkpoint.best is not None:
        _save_state(checkpoint.best, folder / "best.safetensors")
    torch.save(checkpoint.optimizer, folder / "optimizer.pt")
    (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress)), "utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        RunError: A file of it is missing or damaged.
    """
    best = folder / "best.safetensors"
    try:
        return Checkpoint(
            model=load_file(folder / "model.safetensors"),
            best=load_file(best) if best.exists() else None,
            optimizer=torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"),
            progress=Progress(**json.loads((folder / "progress.json").read_text("utf-8"))),
        )
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, EOFError) as error:
        raise _damaged(folder, error) from None
    except pickle.UnpicklingError as error:
        raise _damaged(folder, error) from None


@overload
def checkpoints_under(folder: Path) -> list[Path]: ...
@overload
def checkpoints_under(folder: RemotePath) -> list[RemotePath]: ...
def checkpoints_under(folder: Any) -> Any:
    """The checkpoints under `folder` that have all their files, the one with most steps first."""
    steps = {mark.parent: _step_of(mark.parent) for mark in folder.rglob("progress.json")}
    whole = {place: step for place, step in steps.items() if step is not None}
    return sorted(whole, key=lambda place: whole[place], reverse=True)


def newest_checkpoint(folder: Location) -> Location | None:
    """The first of `checkpoints_under`, if there is one."""
    found: Sequence[Location] = checkpoints_under(folder)
    return found[0] if found else None


def _step_of(folder: Location) -> int | None:
    """The step of a checkpoint, or None where a crash has left only part of one."""
    if folder.name.endswith(UNFINISHED) or not all((folder / f).is_file() for f in _FILES):
        return None
    try:
        return int(json.loads((folder / "progress.json").read_text("utf-8"))["step"])
    except (ValueError, KeyError, TypeError):
        return None


def _save_state(state: State, path: Path) -> None:
    # Tied weights share memory, which the format refuses: each name gets its own copy.
    save_file({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, path)


def _damaged(folder: Path, error: Exception) -> RunError:
    return RunError(
        f"{folder}: checkpoint is damaged ({one_line(error, limit=120)}); "
        "delete the folder to go on from the one before it, or start again with --fresh"
    )
