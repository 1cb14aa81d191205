"""Output tables: the file extension selects the format; a file appears complete or not at all.

A large table may also be a folder of parts, so that an interrupted command can resume:

    part-000000.parquet   and so on: the parts of the table, numbered in order
    _manifest.json        what the parts are computed from, the same for all parts
    _bad_rows.jsonl       input rows that are in no part; written when all parts are complete

(Readers of Parquet folders ignore names that start with an underscore.) Must not know what the
columns mean or how they are computed.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from mbti_ray.errors import ConfigError, RunError, nearest, one_line
from mbti_ray.storage.atomic import atomic_file, write_text

EXTENSIONS = (".csv", ".jsonl", ".parquet")
_MADE_BY = "mbti_ray predict"
_MANIFEST = "_manifest.json"
_BAD_ROWS = "_bad_rows.jsonl"
# Metadata key of a part's bad rows: a part and its bad rows are written as one file.
_BAD_ROWS_KEY = b"bad_rows"

Record = Mapping[str, Any]


def is_folder_output(output: str) -> bool:
    """Whether an --output is a folder: it exists as one, ends in a slash, or has no extension."""
    path = Path(output)
    return path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix


def check_extension(path: Path) -> None:
    """Raise ConfigError unless the extension is a known format and the parent folder exists."""
    if path.suffix not in EXTENSIONS:
        raise ConfigError(
            f'--output {path}: unknown extension "{path.suffix}"; allowed: {", ".join(EXTENSIONS)}'
            f"{nearest(path.suffix, EXTENSIONS)}"
        )
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise ConfigError unless the parent folder of an output exists."""
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: folder {path.parent} does not exist")


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema to one file, each as soon as it is available.

    Raises:
        ConfigError: The extension is not one of `EXTENSIONS`.
        StorageError: The file cannot be written.
    """
    check_extension(path)
    with atomic_file(path) as temporary:
        if path.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                for table in tables:
                    lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in table.to_pylist())
                    file.writelines(lines)
            return
        writer_class = pq.ParquetWriter if path.suffix == ".parquet" else pc.CSVWriter
        with writer_class(temporary, schema) as writer:
            for table in tables:
                writer.write_table(table)


@contextmanager
def write_json_lines(path: Path) -> Iterator[Callable[[Iterable[Record]], None]]:
    """A function that appends records to a file, which appears at the end of the block.

    Without records there is no file, and an existing one is deleted, since it is outdated.
    """
    with atomic_file(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            yield lambda records: file.writelines(json.dumps(r) + "\n" for r in records)
        if not temporary.stat().st_size:
            temporary.unlink()
            path.unlink(missing_ok=True)


class PartSummary(NamedTuple):
    """The number of rows in a part, and the input rows that could not be used."""

    rows: int
    bad: Sequence[Record]


@dataclass(frozen=True)
class PartFolder:
    """A folder of parts, locked for this process; see `part_folder`.

    Attributes:
        schema: Schema of every part.
        settings: Fixed when the folder was created.
        finished: Totals that `finalize` wrote; None before.
    """

    path: Path
    schema: pa.Schema
    made_from: Mapping[str, Any]
    settings: Mapping[str, int]
    finished: Mapping[str, int] | None = None

    @cached_property
    def done(self) -> dict[int, PartSummary]:
        """The complete parts, by number; a power failure can leave incomplete files."""
        parts: dict[int, PartSummary] = {}
        for path in sorted(self.path.glob("part-*.parquet")):
            with suppress(pa.ArrowException, OSError, KeyError, TypeError, ValueError):
                footer = pq.read_metadata(path)
                bad = json.loads(footer.metadata[_BAD_ROWS_KEY])
                parts[int(path.stem.removeprefix("part-"))] = PartSummary(footer.num_rows, bad)
        return parts

    @property
    def is_finished(self) -> bool:
        return self.finished is not None and len(self.done) == self.finished["parts"]

    @property
    def bad_rows(self) -> Path:
        return self.path / _BAD_ROWS

    def write(self, number: int, tables: Sequence[pa.Table], bad: Sequence[Record]) -> None:
        """Write one part."""
        schema = self.schema.with_metadata({_BAD_ROWS_KEY: json.dumps(bad)})
        table = pa.concat_tables([*tables, schema.empty_table()]).replace_schema_metadata()
        write_tables(self.path / f"part-{number:06d}.parquet", [table], schema)
        self.done[number] = PartSummary(len(table), bad)

    def finalize(self) -> Mapping[str, int]:
        """Write the bad rows and mark the folder as finished; returns the totals."""
        parts = [self.done[number] for number in sorted(self.done)]
        with write_json_lines(self.bad_rows) as add:
            for part in parts:
                add(part.bad)
        finished = {
            "parts": len(parts),
            "rows": sum(part.rows for part in parts),
            "bad": sum(len(part.bad) for part in parts),
        }
        _write_manifest(self.path, self.made_from, self.settings, finished)
        return finished


@contextmanager
def part_folder(
    path: Path,
    schema: pa.Schema,
    *,
    made_from: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, int],
    fresh: bool,
) -> Iterator[PartFolder]:
    """A folder to write parts into: a new one, or an existing one with the same `made_from`.

    Args:
        made_from: Everything that determines the contents of the parts, as JSON values.
        settings: For a new folder; an existing one keeps its own.
        fresh: Delete existing parts first, whatever they were computed from.

    Raises:
        RunError: The folder was started with another `made_from`, contains other files instead of
            parts, or is locked by another process.
    """
    check_parent(path)
    manifest = _read_manifest(path)
    with _locked(path, is_new=manifest is None):
        if manifest is not None and fresh:
            # The manifest last, so that an interrupted deletion can be repeated.
            for pattern in ("part-*.parquet", ".part-*.parquet.*.tmp", _BAD_ROWS, _MANIFEST):
                for file in path.glob(pattern):
                    file.unlink()
            manifest = None
        if manifest is None:
            _write_manifest(path, made_from, settings, None)
            yield PartFolder(path, schema, made_from, settings)
        else:
            _check_same(path, manifest["made_from"], made_from)
            yield PartFolder(
                path, schema, made_from, manifest["settings"], manifest.get("finished")
            )


def _read_manifest(path: Path) -> dict[str, Any] | None:
    file = path / _MANIFEST
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; allowed for parts: a folder")
    if not file.exists():
        if path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir()):
            raise RunError(
                f"{path}: contains files but no {_MANIFEST}, so it is left unchanged; name a new "
                "or an empty folder"
            )
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if manifest["made_by"] == _MADE_BY and manifest["settings"] and manifest["made_from"]:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise RunError(
        f"{file}: is damaged or not written by {_MADE_BY}; delete the folder or name another"
    )


def _write_manifest(
    path: Path,
    made_from: Mapping[str, Any],
    settings: Mapping[str, int],
    finished: Mapping[str, int] | None,
) -> None:
    content = {"made_by": _MADE_BY, "made_from": made_from, "settings": settings}
    write_text(path / _MANIFEST, json.dumps({**content, "finished": finished}, indent=1) + "\n")


def _check_same(
    path: Path, existing: Mapping[str, Any], made_from: Mapping[str, Mapping[str, Any]]
) -> None:
    for name, values in made_from.items():
        before = existing.get(name, {})
        changed = [
            f"{key} {one_line(before.get(key), limit=13)}, now {one_line(value, limit=13)}"
            for key, value in values.items()
            if before.get(key) != value
        ]
        if changed:
            raise RunError(
                f"{path}: was started with another {name} ({'; '.join(changed)}); --fresh deletes "
                "its parts first, another folder keeps them"
            )


@contextmanager
def _locked(path: Path, *, is_new: bool) -> Iterator[None]:
    """Lock a folder for the duration of the block; create it if it is new."""
    if is_new:
        path.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path}: another command is writing to it; wait for it") from None
        yield
    finally:
        os.close(handle)
