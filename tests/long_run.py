"""A run long enough to be disturbed, and the undisturbed one that it must end like."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# Enough of them that a run is not over before a signal or a file is seen.
EPOCHS = 16
SETTINGS = [f"fit.epochs={EPOCHS}", "fit.patience=null", "fit.batch_size=8", "scaling.cpus=1"]


@dataclass(frozen=True)
class Undisturbed:
    """The weights and the metrics records of the run without Ray."""

    weights: dict[str, torch.Tensor]
    records: list[dict[str, Any]]

    def assert_same_weights(self, bundle: Path) -> None:
        got = load_file(bundle / "model.safetensors")
        assert got.keys() == self.weights.keys()
        assert all(torch.equal(got[name], self.weights[name]) for name in got)


def records_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl that have been written whole."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def epochs_of(folder: Path) -> list[int]:
    return [record["epoch"] for record in records_of(folder)]
