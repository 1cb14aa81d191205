"""Reading rows: the built-in corpus, CSV, JSON lines, Parquet, saved datasets, the hub.

Owns which kinds of source there are and how a bad row is reported: with its number and reason,
never dropped in silence. What the cells of a row mean is in `rows`. Must not know of masking,
splits or tokens.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from mbti_ray.data.corpus import builtin_rows
from mbti_ray.data.rows import COLUMNS, TEXT_COLUMNS, BadRow, Row, row_of
from mbti_ray.data.text import repair_text
from mbti_ray.errors import DataError, nearest

__all__ = ["BUILTIN", "BadRow", "Row", "Source", "read_source"]

BUILTIN = "builtin"
# A row number with its cells by lower-case column name, or with what is wrong with it.
Record = tuple[int, dict[str, Any] | str]
# Without an owner, `csv` or `text` would be a loader that reads whatever lies in the folder.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Source:
    """All rows of one source, in its order.

    Attributes:
        name: As it was asked for.
        rows: The rows that can be used.
        bad: The rows that cannot, at most ``max_bad_share`` of all.
        repaired: How many of ``rows`` had an encoding that needed repair.
    """

    name: str
    rows: list[Row]
    bad: list[BadRow]
    repaired: int

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of types, posts and authors in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps([row.mbti_type, row.posts, row.author]).encode() + b"\n")
        return digest.hexdigest()[:16]


def read_source(source: str, *, max_bad_share: float = 0.01, labelled: bool = True) -> Source:
    """All rows of ``builtin``, a file, a folder of `save_to_disk`, or a hub dataset.

    With ``labelled=False`` the type may be missing or unknown; it is then None.

    Raises:
        DataError: In one line: it is not there, cannot be read, has no rows, lacks a column, or
            has a larger share of bad rows than ``max_bad_share``.
    """
    if source == BUILTIN:
        return Source(source, builtin_rows(), [], 0)
    rows: list[Row] = []
    bad: list[BadRow] = []
    repaired = 0
    columns: set[str] = set()
    for number, cells in _records(source):
        if isinstance(cells, str):
            bad.append(BadRow(number, _one_line(cells)))
            continue
        columns |= cells.keys()
        try:
            row, was_repaired = row_of(number, cells, labelled=labelled)
        except DataError as error:
            bad.append(BadRow(number, _one_line(error)))
            continue
        rows.append(row)
        repaired += was_repaired
    if not rows and not bad:
        raise DataError(f"{source}: has no rows")
    if columns:
        _check_columns(source, sorted(columns), labelled=labelled)
    _check_bad_share(source, bad, len(rows) + len(bad), max_bad_share)
    return Source(source, rows, bad, repaired)


def _records(source: str) -> Iterator[Record]:
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
            raise DataError(f"{source}: {error.strerror or _one_line(error)}") from error
    elif reader is None and _HUB_NAME.fullmatch(source):
        yield from _hub_dataset(source, path)
    else:
        raise DataError(
            f"{source}: no such file; allowed: {BUILTIN}, a {_SUFFIXES} file, a folder of "
            f"datasets' save_to_disk, a hub dataset as owner/name{_nearest_source(source, path)}"
        )


def _read_csv(source: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # posts of one user can pass the default of 131,072
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    # surrogateescape keeps bytes that are not UTF-8, so that only their row has to be repaired.
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
                        _check_columns(source, header, labelled=False)
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
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if name.strip().lower() in COLUMNS]
            _check_columns(source, file.schema_arrow.names, labelled=False)
            table = file.read(columns=wanted)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: cannot be read as Parquet: {_one_line(error)}") from error
    for number, record in enumerate(table.to_pylist(), start=1):
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
            f"{source}: a folder that datasets' save_to_disk did not write{has}"
        ) from error
    return _dataset_records(source, dataset)


def _hub_dataset(source: str, path: Path) -> Iterator[Record]:
    import datasets

    try:
        dataset = datasets.load_dataset(source)
    except Exception as error:  # offline, unknown, gated, a broken script: many kinds, one line
        raise DataError(
            f"{source}: no such file, and no such dataset can be had from the Hugging Face hub "
            f"({_one_line(error)}){_nearest_source(source, path)}"
        ) from error
    return _dataset_records(source, dataset)


def _dataset_records(source: str, dataset: Any) -> Iterator[Record]:
    """Records of a `datasets` dataset, or of the train split where it has several."""
    if isinstance(dataset, dict):
        if "train" not in dataset:
            raise DataError(f'{source}: has no split "train"; there are: {_quoted(dataset)}')
        dataset = dataset["train"]
    _check_columns(source, dataset.column_names, labelled=False)
    wanted = [name for name in dataset.column_names if name.strip().lower() in COLUMNS]
    for number, record in enumerate(dataset.select_columns(wanted).to_list(), start=1):
        for name in wanted:
            # A class label is stored as a number that only the dataset can name.
            if isinstance(record[name], int) and hasattr(dataset.features[name], "int2str"):
                record[name] = dataset.features[name].int2str(record[name])
        yield number, {key.strip().lower(): value for key, value in record.items()}


def _check_columns(source: str, columns: Sequence[str], *, labelled: bool) -> None:
    there = [name.strip().lower() for name in columns]
    if labelled and "type" not in there:
        _refuse_columns(source, "type", columns)
    if not set(TEXT_COLUMNS) & set(there):
        _refuse_columns(source, "posts", columns)


def _refuse_columns(source: str, missing: str, columns: Sequence[str]) -> NoReturn:
    raise DataError(
        f'{source}: no column "{missing}"; needed: type, and posts or text; '
        f"there are: {_quoted(columns)}{nearest(missing, columns)}"
    )


def _check_bad_share(source: str, bad: list[BadRow], total: int, allowed: float) -> None:
    if len(bad) > allowed * total:
        raise DataError(
            f"{source}: {len(bad)} of {total} rows are bad (data.max_bad_share allows "
            f"{allowed:g}); first: {source}:{bad[0].number}: {bad[0].reason}"
        )


def _nearest_source(source: str, path: Path) -> str:
    folder = path.parent
    # Names only: a long common folder would make every file in it look near.
    there = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return nearest(path.name, [*there, BUILTIN])


def _quoted(names: Any) -> str:
    return ", ".join(f'"{_one_line(name, limit=40)}"' for name in list(names)[:12])


def _one_line(message: object, *, limit: int = 200) -> str:
    text = " ".join(repair_text(str(message)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
