"""Result files: the ending is the format; a file appears whole or not at all.

A large table may also be a folder of parts, which can be gone on with:

    part-000000.parquet   and so on: a part of the table, named by its place
    _manifest.json        what the parts are made from; all have to be made from the same
    _bad_rows.jsonl       the rows of the input that no part has, once all parts are there

(Readers of Parquet folders pass over names that begin with an underscore.) Knows nothing of
what the columns mean or how they are made.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from mbti_ray.errors import ConfigError, RunError, nearest, one_line

ENDINGS = (".csv", ".jsonl", ".parquet")
_MADE_BY = "mbti_ray predict"
_MANIFEST = "_manifest.json"
_BAD_ROWS = "_bad_rows.jsonl"
# Where a Parquet part keeps its bad rows: one file cannot be half there.
_BAD_ROWS_KEY = b"bad_rows"

Record = Mapping[str, Any]


def is_folder_output(output: str) -> bool:
    """Whether an --output is a folder: it is one, ends in a slash, or has no ending."""
    path = Path(output)
    return path.is_dir() or output.endswith(("/", os.sep)) or not path.suffix


def check_extension(path: Path) -> None:
    """Raise ConfigError unless a table can be written to such a file, before any work is done."""
    if path.suffix not in ENDINGS:
        raise ConfigError(
            f'--output {path}: ending "{path.suffix}" is not known; allowed: {", ".join(ENDINGS)}'
            f"{nearest(path.suffix, ENDINGS)}"
        )
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raise ConfigError unless the folder that a file or folder is to be made in exists."""
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: folder {path.parent} does not exist")


def write_table(path: Path, table: pa.Table) -> None:
    """Write one table; see `write_tables`."""
    write_tables(path, [table], table.schema)


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema one after the other, each as it comes.

    Raises:
        ConfigError: The ending is not one of `ENDINGS`.
        RunError: The disk does not take it.
    """
    check_extension(path)
    with _aside(path) as aside:
        _WRITERS[path.suffix](aside, tables, schema)


@contextmanager
def write_json_lines(path: Path) -> Iterator[Callable[[Iterable[Record]], None]]:
    """Takes records for a file that appears at the end, and not at all without any.

    A file from before is then deleted: it would tell of other rows.
    """
    with _aside(path) as aside:
        with aside.open("w", encoding="utf-8") as file:
            yield lambda records: file.writelines(json.dumps(r) + "\n" for r in records)
        if not aside.stat().st_size:
            aside.unlink()
            path.unlink(missing_ok=True)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Another name to write to, which becomes the path's own if nothing goes wrong."""
    aside = path.with_name(f".{path.name}.part")
    try:
        yield aside
        if aside.exists():
            aside.replace(path)
    except OSError as error:
        reason = error.strerror or one_line(error, limit=160)
        raise RunError(f"{path}: cannot be written ({reason}); make room or mend it") from error
    finally:
        aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class PartFacts:
    """One part: its rows, and the records of the input that it has not."""

    rows: int
    bad: Sequence[Record]


@dataclass(frozen=True)
class PartFolder:
    """A folder of parts that this process may write; see `part_folder`.

    Attributes:
        path: The folder.
        schema: Of every part.
        settings: What was chosen when the folder was begun, and stays.
        finished: What `finish` has written, if it has.
    """

    path: Path
    schema: pa.Schema
    made_from: Mapping[str, Any]
    settings: Mapping[str, int]
    finished: Mapping[str, int] | None = None

    @cached_property
    def done(self) -> dict[int, PartFacts]:
        """The parts that are there, by their number."""
        found: dict[int, PartFacts] = {}
        for path in self.path.glob("part-*.parquet"):
            facts = _facts_of(path)
            if facts is not None:
                found[int(path.stem.removeprefix("part-"))] = facts
        return dict(sorted(found.items()))

    @property
    def is_finished(self) -> bool:
        return self.finished is not None and len(self.done) == self.finished["parts"]

    @property
    def bad_rows(self) -> Path:
        return self.path / _BAD_ROWS

    def write(self, number: int, tables: Sequence[pa.Table], bad: Sequence[Record]) -> None:
        """Write one part whole."""
        schema = self.schema.with_metadata({_BAD_ROWS_KEY: json.dumps(bad)})
        table = pa.concat_tables([*tables, schema.empty_table()]).replace_schema_metadata()
        write_tables(self.path / f"part-{number:06d}.parquet", [table], schema)
        self.done[number] = PartFacts(len(table), bad)

    def finish(self) -> Mapping[str, int]:
        """Write the list of bad rows, and that all parts are there; how many of what there are."""
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
    """A folder to write parts into: a new one, or one that was begun from the same.

    Args:
        made_from: What decides the contents of the parts, as JSON holds it.
        settings: For a new folder; one that was begun keeps its own.
        fresh: Delete the parts of a folder first, whatever they were made from.

    Raises:
        RunError: It was begun from something else, holds no parts but other files, or another
            process writes into it.
    """
    check_parent(path)
    manifest = _read_manifest(path)
    with _locked(path, is_new=manifest is None):
        if manifest is not None and fresh:
            _delete_parts(path)
            manifest = None
        if manifest is None:
            _write_manifest(path, made_from, settings, None)
            yield PartFolder(path, schema, made_from, settings)
        else:
            _check_same(path, manifest["made_from"], made_from)
            yield PartFolder(
                path, schema, made_from, manifest["settings"], manifest.get("finished")
            )


def _facts_of(part: Path) -> PartFacts | None:
    """None where the file is not whole: a machine without power can leave that."""
    try:
        footer = pq.read_metadata(part)
        bad = json.loads(footer.metadata[_BAD_ROWS_KEY])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    return PartFacts(footer.num_rows, bad)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    file = path / _MANIFEST
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; allowed for parts: a folder")
    if not file.exists():
        if path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir()):
            raise RunError(
                f"{path}: holds files but no {_MANIFEST} of parts, so it is left alone; name a new "
                "or an empty folder"
            )
        return None
    try:
        manifest: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if manifest["made_by"] == _MADE_BY and manifest["settings"] and manifest["made_from"]:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise RunError(f"{file}: is damaged or not of {_MADE_BY}; delete the folder or name another")


def _write_manifest(
    path: Path,
    made_from: Mapping[str, Any],
    settings: Mapping[str, int],
    finished: Mapping[str, int] | None,
) -> None:
    content = {
        "made_by": _MADE_BY,
        "made_from": made_from,
        "settings": settings,
        "finished": finished,
    }
    with _aside(path / _MANIFEST) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _check_same(path: Path, begun: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> None:
    for name, facts in now.items():
        before = begun.get(name, {})
        changed = [
            f"{key} {_short(before.get(key))}, now {_short(value)}"
            for key, value in facts.items()
            if before.get(key) != value
        ]
        if changed:
            raise RunError(
                f"{path}: was begun with another {name} ({'; '.join(changed)}); --fresh deletes "
                "its parts first, another folder keeps them"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"


@contextmanager
def _locked(path: Path, *, is_new: bool) -> Iterator[None]:
    """Hold a folder for this process, as long as it lives; make it if it is new."""
    if is_new:
        path.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path}: another command writes into it; wait for its end") from None
        yield
    finally:
        os.close(handle)


def _delete_parts(path: Path) -> None:
    # The manifest last: a deletion that is cut off can be gone on with.
    for pattern in ("part-*.parquet", ".part-*.parquet.part", _BAD_ROWS, _MANIFEST):
        for file in path.glob(pattern):
            file.unlink()


def _write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_csv(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    with pc.CSVWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_jsonl(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in table.to_pylist())


_WRITERS: dict[str, Callable[[Path, Iterable[pa.Table], pa.Schema], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
