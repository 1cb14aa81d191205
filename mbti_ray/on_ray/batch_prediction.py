"""Batch prediction of a file: Ray Data streams chunks of rows through actors that hold the model.

An actor sorts the rows of a chunk by length and predicts them together. To Ray Data a chunk is a
single row, so chunks are never merged or split. Must not know command lines or output formats.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from mbti_ray.config import RunConfig, override
from mbti_ray.data.chunks import ChunkPlan, nest_table, read_chunks, unnest_table
from mbti_ray.data.progress import ProgressCallback
from mbti_ray.errors import BundleError, MbtiRayError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.on_ray.cluster.resources import trial_resources, workers_at_once
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
    """The rows to predict, and the bundle to predict them with.

    Attributes:
        bundle: Path or URL, resolved on each machine that runs an actor.
        chunks: Chunks of a source that is readable on the machine of this process.
    """

    bundle: str
    chunks: ChunkPlan
    config: RunConfig


@dataclass
class PredictionStats:
    """Number of rows and throughput of a prediction job.

    Attributes:
        rows: Rows written.
        bad: Input rows that were left out.
        seconds: Time from the start of the first chunk in an actor until the last one was written.
    """

    rows: int = 0
    bad: int = 0
    seconds: float = 0.0
    _started: float = field(default=float("inf"), repr=False)

    @property
    def rows_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    def add(self, chunk: "_PredictedChunk") -> None:
        self.rows += len(chunk.table)
        self.bad += len(chunk.bad)
        self._started = min(self._started, chunk.started)
        self.update_seconds()

    def update_seconds(self) -> None:
        self.seconds = max(0.0, time.time() - self._started)


@dataclass(frozen=True)
class _PredictedChunk:
    """The predictions for a chunk.

    Attributes:
        records: Number of input rows, including bad ones.
        started: When an actor started on it, in seconds since the epoch.
    """

    part: int
    records: int
    table: pa.Table
    bad: list[dict[str, Any]]
    started: float


def predict_to_file(
    job: PredictionJob, output: Path, bad_rows: Path, advance: ProgressCallback
) -> PredictionStats:
    """Write the predictions of all rows to a file, in order, and unreadable rows to another."""
    stats = PredictionStats()

    def tables(add_bad: Callable[[Iterable[dict[str, Any]]], None]) -> Iterator[pa.Table]:
        for chunk in _predict_chunks(job):
            yield chunk.table
            add_bad(chunk.bad)
            stats.add(chunk)
            advance(chunk.records, f"{stats.rows_s:.0f} rows/s")

    with write_json_lines(bad_rows) as add_bad:
        write_tables(output, tables(add_bad), SCHEMA)
    stats.update_seconds()
    return stats


def predict_to_folder(
    job: PredictionJob, folder: PartFolder, advance: ProgressCallback
) -> PredictionStats:
    """Predict the missing parts of a folder, one file for each part."""
    stats = PredictionStats()
    for part, chunks in groupby(_predict_chunks(job), attrgetter("part")):
        tables: list[pa.Table] = []
        bad: list[dict[str, Any]] = []
        for chunk in chunks:
            tables.append(chunk.table)
            bad += chunk.bad
            stats.add(chunk)
            advance(chunk.records, f"{stats.rows_s:.0f} rows/s")
        folder.write(part, tables, bad)
        stats.update_seconds()
    return stats


def _predict_chunks(job: PredictionJob) -> Iterator[_PredictedChunk]:
    """Each chunk once, in input order; Ray retries the work of lost actors and tasks."""
    try:
        for batch in _build_dataset(job).iter_batches(batch_size=1, batch_format="pyarrow"):
            (row,) = batch.drop_columns(["rows"]).to_pylist()
            if row["refused"]:
                raise BundleError(row["refused"])
            yield _PredictedChunk(
                part=job.chunks.part_of(row["place"]),
                records=row["records"],
                table=unnest_table(batch.column("rows")),
                bad=json.loads(row["bad"]),
                started=row["started"],
            )
    except Exception as error:
        user_error = _find_user_error(error)
        if user_error is None:
            raise
        raise user_error from None


def _build_dataset(job: PredictionJob) -> Any:
    """A Ray dataset with one row for each chunk, which holds its predictions."""
    config = job.config
    if config.serve.runtime != "torch":
        # ONNX Runtime runs on CPUs here; a reserved GPU would stay idle.
        config = override(config, {"scaling.use_gpu": False})
    resources = trial_resources(config)
    actors = workers_at_once(resources, job.chunks.expected_chunks)
    _silence_ray_data()
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
            fn_constructor_args=(
                job.bundle,
                config.serve.runtime,
                resources.cpus,
                resources.device,
            ),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )


class _ModelActor:
    """An actor that loads the bundle once and predicts chunk after chunk."""

    def __init__(self, bundle: str, runtime: Any, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._loaded: Predictor | MbtiRayError
        try:
            folder = fetch_bundle(bundle)
            self._loaded = Predictor.load(folder, runtime=runtime, threads=threads, device=device)
        except MbtiRayError as error:
            # Raised here, it would reach the driver only as the text of a stack trace.
            self._loaded = error

    def __call__(self, chunk: pa.Table) -> pa.Table:
        started = time.time()
        if isinstance(self._loaded, MbtiRayError):
            return _with_predictions(
                chunk, SCHEMA.empty_table(), started, refused=str(self._loaded)
            )
        rows = unnest_table(chunk.column("rows"))
        predictions = self._loaded.predict(
            rows.column("posts").to_pylist(), whole=self._loaded.unit == "user"
        )
        columns: dict[str, Any] = {n: rows.column(n) for n in ("number", "post", "id")}
        columns["type"] = [p.mbti_type for p in predictions]
        for k, pole in enumerate(POSITIVE_POLES):
            columns[pole] = [p.probabilities[k] for p in predictions]
        columns["truncated"] = [p.truncated for p in predictions]
        columns["windows"] = [p.windows for p in predictions]
        columns["unknown"] = [p.unknown for p in predictions]
        return _with_predictions(chunk, pa.table(columns, schema=SCHEMA), started)


def _with_predictions(
    chunk: pa.Table, predictions: pa.Table, started: float, *, refused: str | None = None
) -> pa.Table:
    """A chunk with its rows replaced by their predictions, or the reason why there are none."""
    result = chunk.set_column(chunk.column_names.index("rows"), "rows", nest_table(predictions))
    result = result.append_column("started", pa.array([started]))
    return result.append_column("refused", pa.array([refused], pa.string()))


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
        return [ray.data.ReadTask(lambda: read_chunks(plan), metadata)]


def _silence_ray_data() -> None:
    """Send Ray Data's messages, and stack traces of errors raised anyway, to its log file only."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)


def _find_user_error(error: BaseException | None) -> MbtiRayError | None:
    """The user's error inside the exceptions that Ray wrapped around it."""
    while error is not None:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, MbtiRayError) and not isinstance(error, RayError):
            # Ray Data appends lines of its own.
            return type(error)(str(error).splitlines()[0])
        error = cause
    return None
