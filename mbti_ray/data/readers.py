"""Readers of files, saved datasets and hub datasets: each yields records, one after the other.

A record is the cells of a row by lower-case column name. Owns which formats there are and how each
is read, without having a whole file in memory. `rows` parses the cells; `sources` collects rows and
reports bad ones. Must not know of masking, splits or tokens.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mbti_ray.data.rows import COLUMNS, TEXT_COLUMNS
from mbti_ray.data.text import repair_encoding
from mbti_ray.errors import DataError, nearest, one_line

BUILTIN = "builtin"
# A row number with the cells by lower-case column name, or with the reason why there are none.
Record = tuple[int, dict[str, Any] | str]
# Rows of a Parquet file or a dataset that are in memory at once.
_ROWS_AT_ONCE = 1024
# With an owner: `csv` or `text` alone would be a loader that reads whatever is in the folder.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def read_records(source: str) -> Iterator[Record]:
    """The records of a file, of a folder that `save_to_disk` wrote, or of a hub dataset.

    Raises:
        DataError: The source does not exist, cannot be read, or has no column of texts.
    """
    path = Path(source).expanduser()
    reader = _READERS.get(path.suffix.lower())
    if source and path.is_dir():
        yield from _saved_dataset(source, path)
    elif path.is_file():
        if reader is None:
            raise DataError(f'{source}: cannot read "{path.suffix}" files; allowed: {_SUFFIXES}')
        try:
            yield from reader(source, path)
        except OSError as error:
            raise DataError(f"{source}: {error.strerror or repaired_line(error)}") from error
    elif reader is None and _HUB_NAME.fullmatch(source):
        yield from _hub_dataset(source, path)
    else:
        raise DataError(
            f"{source}: no such file; allowed: {BUILTIN}, a {_SUFFIXES} file, a folder from "
            f"datasets' save_to_disk, a hub dataset as owner/name{_nearest_source(source, path)}"
        )


def _read_csv(source: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # one user's posts can exceed the default of 131,072
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    # surrogateescape keeps bytes that are not UTF-8; the row that has them is repaired later.
    encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
    with path.open(encoding=encoding, errors=errors, newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        start = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield start, f"lines {start} to {reader.line_num} are no CSV row: {error}"
            else:
                if cells is None:
                    break
                if not header:
                    header = [name.strip().lower() for name in cells]
                    if header:
                        check_columns(source, header, labelled=False)
                elif len(cells) not in (0, len(header)):
                    yield start, f"{len(cells)} cells where the header has {len(header)}"
                elif cells:
                    yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1


def _read_json_lines(source: str, path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not one JSON object a line: {error}"
                continue
            if isinstance(record, dict):
                yield number, {key.strip().lower(): value for key, value in record.items()}
            else:
                yield number, f"JSON {type(record).__name__} where an object should be"


def _read_parquet(source: str, path: Path) -> Iterator[Record]:
    import pyarrow.parquet

    with _refuse_damaged_parquet(source), pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        check_columns(source, names, labelled=False)
        wanted = [name for name in names if name.strip().lower() in COLUMNS]
        yield from _arrow_records(file.iter_batches(_ROWS_AT_ONCE, columns=wanted))


def parquet_rows(source: str, path: Path) -> int:
    """Number of rows in the metadata of a Parquet file."""
    import pyarrow.parquet

    with _refuse_damaged_parquet(source):
        return int(pyarrow.parquet.read_metadata(path).num_rows)


@contextmanager
def _refuse_damaged_parquet(source: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: cannot be read as Parquet: {repaired_line(error)}") from error


def _arrow_records(batches: Iterable[Any]) -> Iterator[Record]:
    """Records of Arrow tables or batches, numbered from 1."""
    records = (record for batch in batches for record in batch.to_pylist())
    for number, record in enumerate(records, start=1):
        yield number, {key.strip().lower(): value for key, value in record.items()}


_READERS: dict[str, Callable[[str, Path], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
_SUFFIXES = "/".join(_READERS)


def _saved_dataset(source: str, path: Path) -> Iterator[Record]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:
        files = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _READERS)
        has = f"; name one of its files: {', '.join(files[:3])}" if files else ""
        raise DataError(
            f"{source}: a folder that was not written by datasets' save_to_disk{has}"
        ) from error
    return _dataset_records(source, dataset)


def _hub_dataset(source: str, path: Path) -> Iterator[Record]:
    import datasets

    try:
        dataset = datasets.load_dataset(source)
    except Exception as error:  # offline, unknown, gated, a broken script: many classes
        raise DataError(
            f"{source}: no such file, and no such dataset can be loaded from the Hugging Face hub "
            f"({repaired_line(error)}){_nearest_source(source, path)}"
        ) from error
    return _dataset_records(source, dataset)


def _dataset_records(source: str, dataset: Any) -> Iterator[Record]:
    """Records of a `datasets` dataset, or of the train split where it has several."""
    if isinstance(dataset, dict):
        if "train" not in dataset:
            raise DataError(f'{source}: has no split "train"; found: {_quoted(dataset)}')
        dataset = dataset["train"]
    check_columns(source, dataset.column_names, labelled=False)
    wanted = [name for name in dataset.column_names if name.strip().lower() in COLUMNS]
    # A class label is stored as a number; only the dataset knows its name.
    classes = {
        name.strip().lower(): dataset.features[name].int2str
        for name in wanted
        if hasattr(dataset.features[name], "int2str")
    }
    tables = dataset.select_columns(wanted).with_format("arrow").iter(_ROWS_AT_ONCE)
    for number, cells in _arrow_records(tables):
        assert isinstance(cells, dict)
        for name, named in classes.items():
            if isinstance(cells[name], int):
                cells[name] = named(cells[name])
        yield number, cells


def check_columns(source: str, columns: Sequence[str], *, labelled: bool) -> None:
    """Raise DataError unless there is a column of texts, and one of types if ``labelled``."""
    there = [name.strip().lower() for name in columns]
    if labelled and "type" not in there:
        _refuse_columns(source, "type", columns)
    if not set(TEXT_COLUMNS) & set(there):
        _refuse_columns(source, "posts", columns)


def _refuse_columns(source: str, missing: str, columns: Sequence[str]) -> NoReturn:
    raise DataError(
        f'{source}: no column "{missing}"; needed: type, and posts or text; '
        f"found: {_quoted(columns)}{nearest(missing, columns)}"
    )


def _nearest_source(source: str, path: Path) -> str:
    folder = path.parent
    # Names only: with a long common path every file in the folder would look similar.
    there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return nearest(path.name, [*there, BUILTIN])


def _quoted(names: Any) -> str:
    return ", ".join(f'"{repaired_line(name, limit=40)}"' for name in list(names)[:12])


def repaired_line(message: object, *, limit: int = 200) -> str:
    """A message that quotes data: one line, with the encoding repaired."""
    return one_line(repair_encoding(str(message)), limit=limit)
