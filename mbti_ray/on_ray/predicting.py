"""Predictions for a file: Ray Data streams its rows through actors that hold the model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from mbti_ray.bundle import read_manifest
from mbti_ray.config import RunConfig
from mbti_ray.data.sources import Source
from mbti_ray.on_ray.cluster import trial_resources, trials_at_once
from mbti_ray.predictor import Predictor
from mbti_ray.tables import write_tables
from mbti_ray.typology import POSITIVE_POLES

# Rows that one call of an actor sorts by length and reads.
_ROWS_AT_ONCE = 256
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("post", pa.int32()),
        ("id", pa.string()),
        ("type", pa.string()),
        *((pole, pa.float64()) for pole in POSITIVE_POLES),
        ("truncated", pa.bool_()),
        ("windows", pa.int32()),
    ]
)


class _Actor:
    def __init__(self, bundle: Path, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._predictor = Predictor.load(bundle, device=device)
        self._whole = self._predictor.unit == "user"

    def __call__(self, batch: pa.Table) -> pa.Table:
        predictions = self._predictor.predict(batch.column("posts").to_pylist(), whole=self._whole)
        columns: dict[str, Any] = {n: batch.column(n) for n in ("number", "post", "id")}
        columns["type"] = [p.mbti_type for p in predictions]
        for k, pole in enumerate(POSITIVE_POLES):
            columns[pole] = [p.probabilities[k] for p in predictions]
        columns["truncated"] = [p.truncated for p in predictions]
        columns["windows"] = [p.windows for p in predictions]
        return pa.table(columns, schema=_SCHEMA)


def predict_rows(
    bundle: Path,
    table: pa.Table,
    output: Path,
    config: RunConfig,
    advance: Callable[[int, str], None],
) -> int:
    """Predict every row of a table, in its order, into a file; the number of rows written.

    Args:
        table: As `rows_to_predict` makes it.
        advance: Told the number of rows done since the last time, and a note.
    """
    resources = trial_resources(config)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # A block is what Ray Data hands to one actor at a time.
    blocks = [table.slice(at, _ROWS_AT_ONCE) for at in range(0, len(table), _ROWS_AT_ONCE)]
    actors = trials_at_once(config, resources, len(blocks))
    results = ray.data.from_arrow(blocks).map_batches(
        _Actor,
        fn_constructor_args=(bundle.resolve(), resources.cpus, resources.device),
        batch_size=_ROWS_AT_ONCE,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
    )
    done = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal done
        for part in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            done += part.num_rows
            advance(part.num_rows, "")
            yield part.select(_SCHEMA.names).cast(_SCHEMA)

    write_tables(output, tables(), _SCHEMA)
    return done


def rows_to_predict(bundle: Path, source: Source) -> pa.Table:
    """The rows of a source as a bundle reads them: a line for each user, or for each post."""
    unit = read_manifest(bundle).unit
    rows: list[tuple[int, int, str | None, list[str]]] = []
    for row in source.rows:
        if unit == "user":
            rows.append((row.number, -1, row.id, list(row.posts)))
        else:
            rows += [(row.number, k, row.id, [post]) for k, post in enumerate(row.posts)]
    number, post, ids, posts = zip(*rows, strict=True)
    return pa.table(
        {
            "number": pa.array(number, pa.int64()),
            "post": pa.array(post, pa.int32()),
            "id": pa.array(ids, pa.string()),
            "posts": pa.array(posts, pa.list_(pa.string())),
        }
    )
