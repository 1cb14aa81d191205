"""Runs a function of a test on several gloo ranks, each in a process of its own."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


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
