"""Processes of a Ray or of a command on this machine, found by their titles."""

import os
from collections.abc import Iterator
from pathlib import Path


def descendants(title: str, *, of: int | None = None) -> list[int]:
    """Processes below a process, by default this one, with this in their title or command line."""
    parents = {int(p.name): _parent(p) for p in Path("/proc").glob("[0-9]*")}
    return [
        process
        for process in parents
        if (of or os.getpid()) in _ancestors(process, parents) and title in command_line(process)
    ]


def command_line(process: int) -> str:
    """The words of a process's command line, each ended by a null; empty once it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _ancestors(process: int, parents: dict[int, int]) -> Iterator[int]:
    while process := parents.get(process, 0):
        yield process


def _parent(folder: Path) -> int:
    try:
        # The name before it may hold spaces and brackets.
        return int((folder / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0
