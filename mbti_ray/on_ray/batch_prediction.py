"""Batch prediction of a file: Ray Data streams chunks of rows through actors that hold the model.

An actor sorts the rows of a chunk by length and predicts them together. To Ray Data a chunk is one
row with a pickle, so chunks are never merged or split. Must not know command lines or formats.
"""

import logging
import os
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data.block import BlockMetadata

from mbti_ray.config import RunConfig, override
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.chunks import Chunk, ChunkPlan, read_chunks
from mbti_ray.data.processes import ProgressCallback
from mbti_ray.errors import MbtiRayError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.on_ray.cluster.resources import (
    Resources,
    cluster_nodes,
    trial_resources,
    worker_capacity,
)
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.storage.output_tables import PartFolder, write_json_lines, write_tables
from mbti_ray.typology import POSITIVE_POLES

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("post", pa.int32()),
        ("id", pa.string()),
        ("type", pa.string()),
        *((pole, pa.float64()) for pole in POSITIVE_POLES),
        ("truncated", pa.bool_()),
        ("windows", pa.int32()),
        ("unknown", pa.float64()),
    ]
)


@dataclass(frozen=True)
class PredictionJob:
    """The rows to predict, and the path or URL of the bundle, resolved wherever an actor runs."""

    bundle: str
    chunks: ChunkPlan
    config: RunConfig


@dataclass
class PredictionStats:
    """Rows written and left out, and seconds from the start of the first chunk to the last one."""

    rows: int = 0
    bad: int = 0
    seconds: float = 0.0

    @property
    def rows_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0


def predict_to_file(
    job: PredictionJob, output: Path, bad_rows: Path, advance: ProgressCallback
) -> PredictionStats:
    """Write the predictions of all rows to a file, in order, and unreadable rows to another."""
    stats = PredictionStats()
    with write_json_lines(bad_rows) as add_bad:

        def tables() -> Iterator[pa.Table]:
            for _, table, bad in _predict_chunks(job, stats, advance):
                yield table
                add_bad(bad)

        write_tables(output, tables(), SCHEMA)
    return stats


def predict_to_folder(
    job: PredictionJob, folder: PartFolder, advance: ProgressCallback
) -> PredictionStats:
    """Predict the missing parts of a folder, one file for each part."""
    stats = PredictionStats()
    for part, chunks in groupby(_predict_chunks(job, stats, advance), itemgetter(0)):
        _, tables, bad = zip(*chunks, strict=True)
        folder.write(part, tables, list(chain.from_iterable(bad)))
    return stats


def _predict_chunks(
    job: PredictionJob, stats: PredictionStats, advance: ProgressCallback
) -> Iterator[tuple[int, pa.Table, list[dict[str, Any]]]]:
    """The part, predictions and bad rows of each chunk, in input order; Ray retries lost work."""
    first = float("inf")
    quiet = ExitStack()
    quiet.enter_context(_silenced_core())
    try:
        for batch in _build_dataset(job).iter_batches(batch_size=1, batch_format="pyarrow"):
            quiet.close()
            seconds, chunk, table = _unpacked(batch)
            # Not by the clock of an actor's machine.
            first = min(first, time.monotonic() - seconds)
            yield job.chunks.part_of(chunk.place), table, chunk.bad
            stats.rows += len(table)
            stats.bad += len(chunk.bad)
            stats.seconds = time.monotonic() - first
            advance(chunk.records, f"{stats.rows_s:.0f} rows/s")
    finally:
        quiet.close()


@contextmanager
def _silenced_core() -> Iterator[None]:
    """Keeps off standard error what Ray's C++ core writes while actors start; not Python's output.

    Ray Data gives actors their arguments through the object store, and the core reports that as an
    error of each of them; it is in the core's log file as well.
    """
    stderr = sys.stderr
    try:
        native = stderr.fileno()
    except (AttributeError, OSError, ValueError):
        yield
        return
    kept, nowhere = os.dup(native), os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(os.dup(native), "w", buffering=1, encoding="utf-8") as python_only:
        stderr.flush()
        os.dup2(nowhere, native)
        sys.stderr = python_only
        try:
            yield
        finally:
            if sys.stderr is python_only:
                sys.stderr = stderr
            os.dup2(kept, native)
            os.close(kept)
            os.close(nowhere)


def _build_dataset(job: PredictionJob) -> Any:
    """A Ray dataset with one row for each chunk, which holds its predictions."""
    config = job.config
    if config.serve.runtime != "torch":
        # ONNX Runtime runs on CPUs here; a reserved GPU would stay idle.
        config = override(config, {"scaling.use_gpu": False})
    nodes = cluster_nodes()
    resources = trial_resources(config, nodes)
    capacity = worker_capacity(resources, nodes)
    actors = max(1, min(capacity, job.chunks.expected_chunks or capacity))
    # Its messages, and stack traces of errors that are raised anyway, go to its log file only.
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Smaller than any row, so that each row, that is each chunk, is a block of its own.
    context.target_max_block_size = 1
    with ray.data.DataContext.current(context):
        return ray.data.read_datasource(
            _ChunkSource(job.chunks), override_num_blocks=1, num_cpus=0
        ).map_batches(
            _ModelActor,
            fn_constructor_args=(job.bundle, config.serve, resources),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )


class _ModelActor:
    """An actor that loads the bundle once and predicts chunk after chunk."""

    def __init__(self, bundle: str, serve: ServeConfig, resources: Resources) -> None:
        torch.set_num_threads(resources.cpus)
        self._loaded: Predictor | MbtiRayError
        try:
            self._loaded = Predictor.load(
                fetch_bundle(bundle),
                runtime=serve.runtime,
                precision=serve.precision,
                device=resources.device,
                base_rates=serve.base_rates,
            )
        except MbtiRayError as error:
            self._loaded = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """How long it took, the chunk without its rows, and their predictions; or an error."""
        started, predictor = time.monotonic(), self._loaded
        try:
            chunk: Chunk = _unpacked(batch)
            if isinstance(predictor, MbtiRayError):
                raise predictor
            posts = [row["posts"] for row in chunk.rows]
            predictions = predictor.predict(posts, whole=predictor.unit == "user")
        except MbtiRayError as error:
            return _packed(error)
        answers = [prediction.as_dict() for prediction in predictions]
        rows = [r | a | a["probabilities"] for r, a in zip(chunk.rows, answers, strict=True)]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        return _packed((time.monotonic() - started, replace(chunk, rows=[]), table))


def _read_packed(plan: ChunkPlan) -> Iterator[pa.Table]:
    try:
        yield from map(_packed, read_chunks(plan))
    except MbtiRayError as error:
        yield _packed(error)


def _packed(item: object) -> pa.Table:
    return pa.table({"item": [pickle.dumps(item)]})


def _unpacked(batch: pa.Table) -> Any:
    """What was packed; an error is raised, which Ray would bring as the text of a stack trace."""
    item = pickle.loads(batch.column("item")[0].as_py())
    if isinstance(item, MbtiRayError):
        raise item
    return item


class _ChunkSource(ray.data.Datasource):  # type: ignore[misc]
    """The chunks as a Ray Data source: a single read task yields them one by one."""

    def __init__(self, plan: ChunkPlan) -> None:
        super().__init__()
        self._plan = plan

    @property
    def supports_distributed_reads(self) -> bool:
        # The file may exist on the driver's machine only.
        return False

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[Any]:
        plan = self._plan
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(lambda: _read_packed(plan), metadata)]
