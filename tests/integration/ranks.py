"""Runs a function of a test on several gloo ranks, each in a process of its own."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.multiprocessing as mp

from mbti_ray.data.dataset import Dataset, read_dataset

# float32 sums in another order; see test_engine.
ORDER_OF_SUMS = 2e-4
# Three steps of 31 and a last one of 2, in which there is nothing to do for a third rank.
STEP, ROWS = 31, 95


def run_ranks(
    function: Callable[..., Any], folder: Path, *arguments: Any, world_size: int = 2
) -> list[Any]:
    """What `function(rank, *arguments)`, importable by name, returns on each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    # Forked from a process that has imported it all once.
    multiprocessing.set_forkserver_preload(["mbti_ray.engine.loop"])
    values = (function, str(folder), world_size, arguments)
    mp.start_processes(_rank, values, nprocs=world_size, start_method="forkserver")
    paths = [folder / f"rank{rank}.pt" for rank in range(world_size)]
    return [torch.load(path, weights_only=True) for path in paths]


def _rank(
    rank: int, function: Callable[..., Any], folder: str, world_size: int, arguments: tuple[Any]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    torch.save(function(rank, *arguments), Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


def read_few_rows(folder: str | Path) -> Dataset:
    """A prepared dataset with `ROWS` rows to train on: what needs no more is quick with them."""
    data = read_dataset(Path(folder))
    return replace(data, splits=data.splits | {"train": data.splits["train"].take(np.arange(ROWS))})


@contextmanager
def forced_overflows(*, init_scale: float = 2.0**127) -> Iterator[None]:
    """Scale the loss in every precision, by so much at first that gradients overflow.

    In float32 too, with a loss of some weight; there scaling by a power of two is exact. The scale
    doubles every other step, so that it overflows again.
    """
    scaler = torch.amp.GradScaler

    def build(device: str, enabled: bool) -> torch.amp.GradScaler:
        return scaler(device, init_scale=init_scale, growth_interval=2)

    with mock.patch.object(torch.amp, "GradScaler", build):
        yield
