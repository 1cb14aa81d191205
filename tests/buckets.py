"""Helpers for tests of storage by URL."""

from pathlib import Path
from typing import Any

from mbti_ray.config import RunConfig, load_run
from mbti_ray.runs.lookup import locked_run_folder
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage.remote import RemotePath, parse_location


def remote(url: str) -> RemotePath:
    found = parse_location(url)
    assert isinstance(found, RemotePath)
    return found


def files_under(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def resolve_run_folder(config: RunConfig, **options: Any) -> RunFolder:
    """The folder that a command would get, after it has given its lock back."""
    with locked_run_folder(config, **options) as folder:
        return folder


def config_in(storage: RemotePath, *overrides: str) -> RunConfig:
    return load_run("quick", [f"storage={storage}", *overrides])
