"""Data frames of pandas, polars or Arrow as sources: each becomes a Parquet file, read like any."""

import hashlib
from pathlib import Path
from typing import Any

from mbti_ray.errors import DataError, one_line
from mbti_ray.storage.atomic import atomic_file


def save_frame(frame: Any, folder: Path) -> Path:
    """The Parquet file of a data frame, in a folder, named after its contents; or a DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pandas would add its index as a column.
        is_pandas = hasattr(frame, "iloc")
        table = pa.Table.from_pandas(frame, preserve_index=False) if is_pandas else pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"got {type(frame).__name__} ({one_line(error, limit=160)}); allowed: a file, a hub "
            "dataset, builtin, or a data frame of pandas, polars or Arrow"
        ) from None
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(None), sink)
    contents = sink.getvalue()
    path = folder / f"{hashlib.sha256(contents).hexdigest()[:16]}.parquet"
    with atomic_file(path) as temporary:
        temporary.write_bytes(contents)
    return path
