"""Writing result tables: the file's ending is the format; a file appears whole or not at all."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from mbti_ray.errors import ConfigError, nearest

ENDINGS = (".csv", ".jsonl", ".parquet")


def check_ending(path: Path) -> None:
    """Raise ConfigError unless a table can be written to such a file, before any work is done."""
    if path.suffix not in ENDINGS:
        raise ConfigError(
            f'--output {path}: ending "{path.suffix}" is not known; allowed: {", ".join(ENDINGS)}'
            f"{nearest(path.suffix, ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: folder {path.parent} does not exist")


def write_table(path: Path, table: pa.Table) -> None:
    """Write one table; see `write_tables`."""
    write_tables(path, [table], table.schema)


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema one after the other, each as it comes.

    Raises:
        ConfigError: The ending is not one of `ENDINGS`.
    """
    check_ending(path)
    aside = path.with_name(f".{path.name}.part")
    try:
        _WRITERS[path.suffix](aside, tables, schema)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


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
