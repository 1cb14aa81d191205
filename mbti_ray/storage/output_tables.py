"""Output tables: the file extension selects the format; a file appears complete or not at all.

A large table may also be a folder of parts, so that an interrupted command can resume:

    part-000000.parquet   and so on: the parts of the table, numbered in order
    _manifest.json        what the parts are computed from, the same for all parts
    _bad_rows.jsonl       input rows that are in no part; written when all parts are complete

(Readers of Parquet folders ignore names that start with an underscore.) Must not know columns.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from mbti_ray.errors import ConfigError, RunError, nearest, one_line
from mbti_ray.storage.atomic import atomic_file, try_lock, write_text

EXTENSIONS = (".csv", ".jsonl", ".parquet")
_MANIFEST = "_manifest.json"
_BAD_ROWS = "_bad_rows.jsonl"
# Metadata key of a part's bad rows: a part and its bad rows are written as one file.
_BAD_ROWS_KEY = b"bad_rows"

Record = Mapping[str, Any]


def is_folder_output(output: str) -> bool:
    """Whether an --output is a folder: it exists as one, ends in a slash, or has no extension."""
    path = Path(output)
    return path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix


def check_extension(
    path: Path, allowed: Sequence[str] = EXTENSIONS, *, option: str = "--output"
) -> None:
    """Raise ConfigError unless a file with an allowed extension can be written in its folder."""
    if path.suffix not in allowed:
        raise ConfigError(
            f'{option} {path}: unknown extension "{path.suffix}"; allowed: {", ".join(allowed)}'
            f"{nearest(path.suffix, allowed)}"
        )
    check_parent(path, option=option)
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; allowed: a file")


def check_parent(path: Path, *, option: str = "--output") -> None:
    """Raise ConfigError unless the parent folder of an output exists."""
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: folder {path.parent} does not exist")


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema to one file, each as soon as it is available.

    Raises ConfigError for an extension that is not in `EXTENSIONS`.
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


class _Manifest(BaseModel):
    """What `part_folder` was called with, and the totals that `finalize` wrote."""

    made_by: Literal["mbti_ray predict"] = "mbti_ray predict"
    made_from: dict[str, dict[str, Any]]
    settings: dict[str, int]
    finished: dict[str, int] | None = None


@dataclass
class PartFolder:
    """A folder of parts with one schema, locked for this process; see `part_folder`."""

    path: Path
    schema: pa.Schema
    _manifest: _Manifest

    @property
    def settings(self) -> Mapping[str, int]:
        """Fixed when the folder was created."""
        return self._manifest.settings

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
    def totals(self) -> Mapping[str, int] | None:
        """What `finalize` returned; None as long as a part is missing."""
        totals = self._manifest.finished
        return totals if totals and len(self.done) == totals["parts"] else None

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
        parts = [part for _, part in sorted(self.done.items())]
        with write_json_lines(self.bad_rows) as add:
            for part in parts:
                add(part.bad)
        rows, bad = sum(part.rows for part in parts), sum(len(part.bad) for part in parts)
        finished = {"parts": len(parts), "rows": rows, "bad": bad}
        self._manifest = self._manifest.model_copy(update={"finished": finished})
        self.write_manifest()
        return finished

    def write_manifest(self) -> None:
        write_text(self.path / _MANIFEST, self._manifest.model_dump_json(indent=1) + "\n")


@contextmanager
def part_folder(
    path: Path,
    schema: pa.Schema,
    *,
    made_from: dict[str, dict[str, Any]],
    settings: dict[str, int],
    fresh: bool,
) -> Iterator[PartFolder]:
    """A folder to write parts into: a new one, or an existing one with the same `made_from`.

    Args:
        made_from: Everything that determines the contents of the parts, as JSON values.
        settings: For a new folder; an existing one keeps its own.
        fresh: Delete existing parts first, whatever they were computed from.

    Raises:
        RunError: It was started with another `made_from`, contains other files, or is locked.
    """
    check_parent(path)
    manifest = _read_manifest(path)
    path.mkdir(exist_ok=True)
    with try_lock(path) as has_lock:
        if not has_lock:
            raise RunError(f"{path}: another command is writing to it; wait for it")
        if manifest is not None and not fresh:
            _check_same(path, manifest.made_from, made_from)
            yield PartFolder(path, schema, manifest)
            return
        # The manifest last, so that an interrupted deletion can be repeated.
        for pattern in ("part-*.parquet", ".part-*.parquet.*.tmp", _BAD_ROWS, _MANIFEST):
            for file in path.glob(pattern) if manifest else ():
                file.unlink()
        folder = PartFolder(path, schema, _Manifest(made_from=made_from, settings=settings))
        folder.write_manifest()
        yield folder


def _read_manifest(path: Path) -> _Manifest | None:
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
        return _Manifest.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        raise RunError(
            f"{file}: is damaged or not written by mbti_ray predict; delete the folder or name "
            "another"
        ) from None


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
