"""Size and SHA-256 of files, and the comparison with what was recorded. Must not know contents."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class FileRecord(BaseModel):
    """Size and SHA-256 of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    bytes: NonNegativeInt
    sha256: str


def describe_file(path: Path) -> FileRecord:
    """The record of a file as it is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(bytes=path.stat().st_size, sha256=digest)


def find_damage(folder: Path, files: Mapping[str, FileRecord]) -> str | None:
    """The first file, by its path in the folder, that is not as recorded; None if all are."""
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != recorded.bytes:
            return f"{name} has {path.stat().st_size} bytes, not the recorded {recorded.bytes}"
        if describe_file(path).sha256 != recorded.sha256:
            return f"{name} does not have the recorded SHA-256"
    return None
