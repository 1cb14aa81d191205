"""Predictions for a file: Ray Data streams it in chunks through actors that hold the model.

A chunk is what an actor sorts by length and reads at once. Ray Data sees one row for each, so that
it can neither join nor cut them.
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
    ]
)


@dataclass(frozen=True)
class PredictionJob:
    """What is to be predicted, with which bundle.

    Attributes:
        bundle: Its path or URL, which each machine that computes finds by itself.
        chunks: Of a source that the machine which this process is on can read.
    """

    bundle: str
    chunks: ChunkPlan
    config: RunConfig


@dataclass
class PredictionStats:
    """How much was predicted, and how fast.

    Attributes:
        rows: Rows written.
        bad: Rows of the input that were left out.
        seconds: From when an actor began with its first chunk to when the last was written.
    """

    rows: int = 0
    bad: int = 0
    seconds: float = 0.0
    _began: float = field(default=float("inf"), repr=False)

    @property
    def rows_s(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    def add(self, chunk: "_Predicted") -> None:
        self.rows += len(chunk.table)
        self.bad += len(chunk.bad)
        self._began = min(self._began, chunk.began)
        self.mark()

    def mark(self) -> None:
        """Take the time."""
        self.seconds = max(0.0, time.time() - self._began)


@dataclass(frozen=True)
class _Predicted:
    """The predictions of a chunk.

    Attributes:
        records: Rows of the input in it, bad ones included.
        began: When an actor began with it, in seconds since 1970.
    """

    part: int
    records: int
    table: pa.Table
    bad: list[dict[str, Any]]
    began: float


def predict_to_file(
    job: PredictionJob, output: Path, bad_rows: Path, advance: ProgressCallback
) -> PredictionStats:
    """Predict every row into a file, in order; the rows that cannot be read into another."""
    tally = PredictionStats()

    def tables(add_bad: Callable[[Iterable[dict[str, Any]]], None]) -> Iterator[pa.Table]:
        for chunk in _predicted(job):
            yield chunk.table
            add_bad(chunk.bad)
            tally.add(chunk)
            advance(chunk.records, f"{tally.rows_s:.0f} rows/s")

    with write_json_lines(bad_rows) as add_bad:
        write_tables(output, tables(add_bad), SCHEMA)
    tally.mark()
    return tally


def predict_to_folder(
    job: PredictionJob, folder: PartFolder, advance: ProgressCallback
) -> PredictionStats:
    """Predict the rows of all parts that are not done yet, a file for each part."""
    tally = PredictionStats()
    for part, chunks in groupby(_predicted(job), attrgetter("part")):
        tables: list[pa.Table] = []
        bad: list[dict[str, Any]] = []
        for chunk in chunks:
            tables.append(chunk.table)
            bad += chunk.bad
            tally.add(chunk)
            advance(chunk.records, f"{tally.rows_s:.0f} rows/s")
        folder.write(part, tables, bad)
        tally.mark()
    return tally


def _predicted(job: PredictionJob) -> Iterator[_Predicted]:
    """Chunks in the order of the input, each once; of lost actors and tasks Ray makes new ones."""
    try:
        for batch in _results(job).iter_batches(batch_size=1, batch_format="pyarrow"):
            (row,) = batch.drop_columns(["rows"]).to_pylist()
            if row["refused"]:
                raise BundleError(row["refused"])
            yield _Predicted(
                part=job.chunks.part_of(row["place"]),
                records=row["records"],
                table=unnest_table(batch.column("rows")),
                bad=json.loads(row["bad"]),
                began=row["began"],
            )
    except Exception as error:
        told = _own_error(error)
        if told is None:
            raise
        raise told from None


def _results(job: PredictionJob) -> Any:
    """The dataset with a row for each chunk: where it was, and its predictions."""
    config = job.config
    if config.serve.runtime != "torch":
        # ONNX Runtime computes on CPUs; a GPU would only be kept from others.
        config = override(config, {"scaling.use_gpu": False})
    resources = trial_resources(config)
    actors = workers_at_once(resources, job.chunks.expected_chunks)
    _quiet()
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Smaller than any row: each, which is a chunk, is a block of its own.
    context.target_max_block_size = 1
    with ray.data.DataContext.current(context):
        return ray.data.read_datasource(
            _Input(job.chunks), override_num_blocks=1, num_cpus=0
        ).map_batches(
            _Actor,
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


class _Actor:
    """Holds the model."""

    def __init__(self, bundle: str, runtime: Any, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._loaded: Predictor | MbtiRayError
        try:
            folder = fetch_bundle(bundle)
            self._loaded = Predictor.load(folder, runtime=runtime, threads=threads, device=device)
        except MbtiRayError as error:
            # Raised, it would come to the driver as the text of a stack trace.
            self._loaded = error

    def __call__(self, chunk: pa.Table) -> pa.Table:
        began = time.time()
        if isinstance(self._loaded, MbtiRayError):
            return _answered(chunk, SCHEMA.empty_table(), began, refused=str(self._loaded))
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
        return _answered(chunk, pa.table(columns, schema=SCHEMA), began)


def _answered(
    chunk: pa.Table, predictions: pa.Table, began: float, *, refused: str | None = None
) -> pa.Table:
    """A chunk with its predictions in place of its rows, or with why there are none."""
    place = chunk.column_names.index("rows")
    answered = chunk.set_column(place, "rows", nest_table(predictions))
    answered = answered.append_column("began", pa.array([began]))
    return answered.append_column("refused", pa.array([refused], pa.string()))


class _Input(ray.data.Datasource):  # type: ignore[misc]
    """The rows to predict as Ray Data reads them: in one task, which gives chunk after chunk."""

    def __init__(self, plan: ChunkPlan) -> None:
        super().__init__()
        self._plan = plan

    @property
    def supports_distributed_reads(self) -> bool:
        # Only the machine that the command runs on has the file for sure.
        return False

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[Any]:
        plan = self._plan
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(lambda: read_chunks(plan), metadata)]


def _quiet() -> None:
    """Keep Ray Data's remarks, and its stack traces of what is raised anyway, to its log file."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)


def _own_error(error: BaseException | None) -> MbtiRayError | None:
    """What a worker had to say to the user, under what Ray has wrapped it in."""
    while error is not None:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, MbtiRayError) and not isinstance(error, RayError):
            # Ray Data adds lines of its own.
            return type(error)(str(error).splitlines()[0])
        error = cause
    return None
