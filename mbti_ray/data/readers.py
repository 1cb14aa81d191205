"""Readers of files, saved datasets and hub datasets: each yields records, one after the other.

A record is the cells of a row by role, as `columns` finds them. Owns which formats there are and
how each is read, without having a whole file in memory; a data frame becomes a Parquet file. Must
not know of masking, splits or tokens.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from mbti_ray.data.columns import SEPARATORS, ColumnMap, quoted
from mbti_ray.data.text import repaired_line
from mbti_ray.errors import DataError, nearest, one_line
from mbti_ray.storage.atomic import atomic_file

BUILTIN = "builtin"
# A row number with the cells by role, or with the reason why there are none.
Record = tuple[int, dict[str, Any] | str]
# Rows of a Parquet file or a dataset that are in memory at once.
_ROWS_AT_ONCE = 1024
# With an owner: `csv` or `text` alone would be a loader that reads whatever is in the folder.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError)


def read_records(columns: ColumnMap) -> Iterator[Record]:
    """The records of a file, of a folder that `save_to_disk` wrote, or of a hub dataset.

    What is learned about the columns of `columns.source` is added to them. Raises DataError where
    the source cannot be read, has no column of texts, or has several that could be meant.
    """
    source = columns.source
    path = Path(source).expanduser()
    if source and path.is_dir():
        yield from _saved_dataset(path, columns)
    elif path.is_file():
        try:
            with _open(source, path) as (suffix, stream):
                if suffix in (".csv", ".tsv"):
                    yield from _read_csv(stream, columns, usual="\t" if suffix == ".tsv" else ",")
                elif suffix in _READERS:
                    yield from _READERS[suffix](stream, columns)
                else:
                    raise DataError(f'{source}: cannot read "{suffix}" files; allowed: {_FORMATS}')
        except _DAMAGE as error:
            reason = getattr(error, "strerror", None) or repaired_line(error)
            raise DataError(f"{source}: cannot be read: {reason}") from error
    elif is_on_hub(source):
        yield from _hub_dataset(path, columns)
    else:
        raise DataError(
            f"{source}: no such file; allowed: {BUILTIN}, a file ({_FORMATS}), a folder from "
            f"datasets' save_to_disk, a hub dataset as owner/name{_nearest_source(path)}"
        )


def is_file_name(path: Path) -> bool:
    """Whether a name ends as files do that can be read."""
    return path.suffix.lower() in (".csv", ".tsv", ".gz", ".zip", *_READERS)


def is_saved_dataset(path: Path) -> bool:
    """Whether datasets' `save_to_disk` wrote a folder."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def is_on_hub(source: str) -> bool:
    """Whether a source can only be a dataset of the hub."""
    path = Path(source).expanduser()
    is_name = _HUB_NAME.fullmatch(source) is not None
    return is_name and not path.exists() and not is_file_name(path)


@contextmanager
def _open(source: str, path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The suffix of a file and its bytes, decompressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(path) as stream:
            yield Path(path.stem).suffix.lower(), cast(IO[bytes], stream)
    elif suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            # What macOS adds to every archive are not files of the user's.
            names = [n for n in archive.namelist() if n[-1] != "/" and "__MACOSX" not in n]
            if len(names) != 1:
                raise DataError(
                    f"{source}: contains {len(names)} files; allowed: a .zip with one file"
                )
            if archive.getinfo(names[0]).flag_bits & 1:
                raise DataError(f"{source}: is encrypted; allowed: a .zip without a password")
            with archive.open(names[0]) as stream:
                yield Path(names[0]).suffix.lower(), stream
    else:
        with path.open("rb") as stream:
            yield suffix, stream


def _read_csv(stream: IO[bytes], columns: ColumnMap, *, usual: str) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # one user's posts can exceed the default of 131,072
    is_utf16 = stream.read(2) in (b"\xff\xfe", b"\xfe\xff")
    stream.seek(0)
    # surrogateescape keeps bytes that are not UTF-8; the row that has them is repaired later.
    encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
    with io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="") as lines:
        separator = columns.separator or _guess_separator(lines, columns, usual)
        row_lines = _RowLines(lines)
        reader = csv.reader(row_lines, strict=True, delimiter=separator)
        header: list[str] = []
        while True:
            start = row_lines.begin_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                row_lines.keep_first()
                yield start, f"line {start} begins no CSV row: {error}"
            else:
                if cells is None:
                    break
                if not header:
                    header = [name.strip() for name in cells]
                    if "\0" in "".join(header):
                        raise DataError(
                            f"{columns.source}: has NUL characters in its header, so it is not "
                            "UTF-8 (perhaps UTF-16 or UTF-32); save it as UTF-8"
                        )
                    if header:
                        columns.add(header)
                        columns.check(labeled=False)
                elif len(cells) not in (0, len(header)):
                    yield start, f"{len(cells)} cells where the header has {len(header)}"
                elif cells:
                    yield start, columns.cells(dict(zip(header, cells, strict=True)))


class _RowLines:
    """The lines of a CSV file; those of a row can be read again, as other rows.

    A quote that is never closed would otherwise take the rows below it, and count as one bad row.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._next: list[str] = []
        self._taken: list[str] = []
        self._start = 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._next.pop() if self._next else next(self._lines)
        self._taken.append(line)
        return line

    def begin_row(self) -> int:
        """The number of the next line, which begins a row."""
        self._start += len(self._taken)
        self._taken.clear()
        return self._start

    def keep_first(self) -> None:
        """Leave all lines of the row but its first one to be read again."""
        self._next += self._taken[:0:-1]
        del self._taken[1:]


def _guess_separator(lines: io.TextIOWrapper, columns: ColumnMap, usual: str) -> str:
    """The separator by which most cells of the header are names of columns."""
    header = next((line for line in iter(lines.readline, "") if line.strip()), "")
    lines.seek(0)

    def fit(separator: str) -> tuple[int, int, bool]:
        names = header.replace('"', "").split(separator)
        return columns.count_known(names), len(names), separator == usual

    best = max(SEPARATORS, key=fit)
    if best != usual:
        columns.notes.append(f"separator {best!r}, guessed from the header (data.separator)")
    return best


def _read_json(stream: IO[bytes], columns: ColumnMap) -> Iterator[Record]:
    """JSON Lines, or one array of objects, which has to fit into memory."""
    with io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        is_array: bool | None = None
        for number, line in enumerate(lines, start=1):
            if is_array is None and line.strip():
                is_array = line.lstrip().startswith("[")
            if is_array:
                try:
                    records = json.loads(line + lines.read(), object_pairs_hook=_build_object)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{columns.source}: not a JSON array: {error}") from error
                for place, record in enumerate(records, start=1):
                    yield _check_object(place, record, columns)
            elif line.strip():
                try:
                    record = json.loads(line, object_pairs_hook=_build_object)
                except (ValueError, RecursionError) as error:
                    yield number, f"not one JSON object a line: {error}"
                else:
                    yield _check_object(number, record, columns)


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return record


def _check_object(number: int, record: object, columns: ColumnMap) -> Record:
    if isinstance(record, dict):
        return number, columns.cells(record)
    return number, f"JSON {type(record).__name__} where an object should be"


def _read_parquet(stream: IO[bytes], columns: ColumnMap) -> Iterator[Record]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(stream) as file:
            columns.add(file.schema_arrow.names)
            columns.check(labeled=False)
            batches = file.iter_batches(_ROWS_AT_ONCE, columns=[*columns.roles])
            yield from _arrow_records(batches, columns)
    except (pyarrow.ArrowException, OSError) as error:
        line = f"{columns.source}: cannot be read as Parquet: {repaired_line(error)}"
        raise DataError(line) from error


def _arrow_records(batches: Iterable[Any], columns: ColumnMap) -> Iterator[Record]:
    """Records of Arrow tables or batches, numbered from 1."""
    records = (record for batch in batches for record in batch.to_pylist())
    for number, record in enumerate(records, start=1):
        yield number, columns.cells(record)


_READERS: dict[str, Callable[[IO[bytes], ColumnMap], Iterator[Record]]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
_FORMATS = f".csv/.tsv/{'/'.join(_READERS)}, also in .gz or .zip"


def _saved_dataset(path: Path, columns: ColumnMap) -> Iterator[Record]:
    try:
        if not is_saved_dataset(path):
            raise FileNotFoundError(path)
        import datasets

        dataset = datasets.load_from_disk(str(path))
    except Exception as error:
        files = sorted(p.name for p in path.iterdir() if is_file_name(p))
        has = f"; name one of its files: {', '.join(files[:3])}" if files else ""
        raise DataError(
            f"{columns.source}: a folder that was not written by datasets' save_to_disk{has}"
        ) from error
    return _dataset_records(dataset, columns)


def _hub_dataset(path: Path, columns: ColumnMap) -> Iterator[Record]:
    import datasets

    try:
        dataset = datasets.load_dataset(columns.source)
    except Exception as error:  # offline, unknown, gated, a broken script: many classes
        raise DataError(
            f"{columns.source}: no such file, and no such dataset can be loaded from the Hugging "
            f"Face hub ({repaired_line(error)}){_nearest_source(path)}"
        ) from error
    return _dataset_records(dataset, columns)


def _dataset_records(dataset: Any, columns: ColumnMap) -> Iterator[Record]:
    """Records of a `datasets` dataset, or of the train split where it has several."""
    if isinstance(dataset, dict):
        if "train" not in dataset:
            raise DataError(
                f'{columns.source}: has no split "train"; found: {quoted(dataset.keys())}'
            )
        dataset = dataset["train"]
    columns.add(dataset.column_names)
    columns.check(labeled=False)
    # A class label is stored as a number; only the dataset knows its name.
    classes = {
        role: dataset.features[name].int2str
        for name, role in columns.roles.items()
        if hasattr(dataset.features[name], "int2str")
    }
    tables = dataset.select_columns([*columns.roles]).with_format("arrow").iter(_ROWS_AT_ONCE)
    for number, cells in _arrow_records(tables, columns):
        assert isinstance(cells, dict)
        for role, name_of in classes.items():
            if isinstance(cells[role], int):
                cells[role] = name_of(cells[role])
        yield number, cells


def _nearest_source(path: Path) -> str:
    folder = path.parent
    # Names only: with a long common path every file in the folder would look similar.
    there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return nearest(path.name, [*there, BUILTIN])


def save_frame(frame: Any, folder: Path) -> Path:
    """The Parquet file of a data frame, in a folder, named after its contents.

    Raises DataError for what is no data frame, or has cells that Parquet cannot hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pandas would add its index as a column.
        is_pandas = hasattr(frame, "iloc") and hasattr(frame, "columns")
        table = pa.Table.from_pandas(frame, preserve_index=False) if is_pandas else pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        # Arrow's first argument may quote a cell, the last one names the column.
        raise DataError(
            f"got {type(frame).__name__} ({one_line(error.args[-1], limit=160)}); allowed: a file, "
            "a hub dataset, builtin, or a data frame of pandas, polars or Arrow"
        ) from None
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink)
    contents = sink.getvalue()
    path = folder / f"{hashlib.sha256(contents).hexdigest()[:16]}.parquet"
    with atomic_file(path) as temporary:
        temporary.write_bytes(contents)
    return path
