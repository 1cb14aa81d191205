"""`python -m mbti_ray.predict`: predictions for texts, or for a file with Ray Data."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbti_ray.cli.command import add_base_rates, build_parser, run_command
from mbti_ray.cli.progress import is_watched, print_opening, progress_bar, step
from mbti_ray.cli.tables import Result, print_bad_rows, print_line, print_predictions
from mbti_ray.config import RunConfig, apply_overrides, override
from mbti_ray.config.load import BASE_RATES, base_rate_overrides
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.processes import ProgressCallback
from mbti_ray.errors import ConfigError, DataError, RunError
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle, require_outside_bundles
from mbti_ray.storage.remote import Location, absolute_location

if TYPE_CHECKING:
    from mbti_ray.inference.manifest import Manifest
    from mbti_ray.on_ray.batch_prediction import PredictionJob
    from mbti_ray.storage.output_tables import PartFolder

_ALLOWED = (
    *("storage", "scaling.cpus", "scaling.gpus", "scaling.use_gpu"),
    *("serve.runtime", "serve.precision"),
    *(f"data.columns.{role}" for role in ("text", "type", "author", "id")),
    *("data.separator", "data.join_rows"),
    *BASE_RATES,
)
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")
# Input rows per part: seconds on a GPU, a minute or more on a CPU.
_PART_ROWS = 5000
# Fields of the manifest that determine a prediction; `id` stands for the weights.
_DETERMINING_FIELDS = (
    *("id", "unit", "max_windows", "mask_version", "mask_also"),
    *("temperature", "length", "thresholds", "abstain"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "predict",
        "Predict the type of texts, or of every row of a file.\n\n"
        "An output folder receives one Parquet file for each part of the input. If the command is "
        "stopped or killed, running it again resumes and keeps the parts that are complete.",
        items='BUNDLE (a folder; default: the newest), "text" ..., key=value '
        "(serve.runtime=onnx, scaling.cpus=1, storage=FOLDER); after -- everything is a text",
        examples=(
            'runs/mine "I would rather read than go out."',
            "runs/mine --input posts.csv --output types.csv",
        ),
    )
    parser.add_argument(
        "--input", metavar="FILE", help=".csv, .jsonl or .parquet with posts or text"
    )
    parser.add_argument(
        "--output",
        metavar="PLACE",
        help="a .csv, .jsonl or .parquet file, or a folder; requires --input",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="delete the parts in an output folder first"
    )
    parser.add_argument(
        "--part-rows", type=int, metavar="N", help=f"input rows per part (default: {_PART_ROWS})"
    )
    add_base_rates(parser)
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    texts = arguments[end + 1 :]
    return run_command(parser, lambda options: _predict(options, texts), arguments[:end])


def _predict(options: argparse.Namespace, texts: list[str]) -> Result:
    overrides = [item for item in options.items if _OVERRIDE.match(item)]
    rest = [item for item in options.items if item not in overrides]
    overrides += base_rate_overrides(options.base_rates)
    config = apply_overrides(RunConfig(), overrides, allowed=_ALLOWED)
    if config.scaling.use_gpu is True and config.serve.runtime != "torch":
        raise ConfigError(
            f"command line: serve.runtime={config.serve.runtime} runs on CPUs only; leave out "
            "scaling.use_gpu=true, or use serve.runtime=torch"
        )
    place = rest.pop(0) if rest and _looks_like_a_path(rest[0]) else None
    rest += texts
    if (options.input is None) != (options.output is None):
        raise ConfigError("command line: --input and --output go together")
    if options.input is not None and rest:
        raise ConfigError(f'command line: both --input and a text ("{rest[0][:40]}"); give one')
    if options.input is None and not rest:
        raise ConfigError('command line: nothing to predict; give "text" ..., or --input FILE')
    home = locate_bundle(place, config.storage)
    if options.input is None:
        return _predict_texts(home, config, rest)
    return _predict_rows(home, config, options)


def _predict_texts(home: Location, config: RunConfig, texts: list[str]) -> Result:
    from mbti_ray.inference.manifest import load_manifest
    from mbti_ray.inference.prediction import read_texts

    try:
        read_texts(texts)
    except DataError as error:
        raise DataError(f"command line: {error}") from None
    bundle = fetch_bundle(home)
    load_manifest(bundle)
    if is_watched():
        print_opening()

    import torch

    from mbti_ray.inference.predictor import Predictor

    if config.scaling.cpus:
        torch.set_num_threads(config.scaling.cpus)
    predictor = Predictor.load(
        bundle,
        runtime=config.serve.runtime,
        precision=config.serve.precision,
        base_rates=config.serve.base_rates,
    )
    predictions = predictor.predict([[text] for text in texts], whole=False)
    answers = [prediction.as_dict() for prediction in predictions]
    print_predictions(texts, answers)
    return {"bundle": str(home), "predictions": answers}


def _predict_rows(home: Location, config: RunConfig, options: argparse.Namespace) -> Result:
    from mbti_ray.data.sources import check_readable
    from mbti_ray.inference.manifest import load_manifest
    from mbti_ray.storage.output_tables import check_extension, check_parent, is_folder_output

    output = Path(options.output)
    require_outside_bundles(output)
    is_folder = is_folder_output(options.output)
    if is_folder:
        check_parent(output)
    else:
        check_extension(output)
    _check_options(options, is_folder=is_folder)
    notes = check_readable(options.input, config.data)
    manifest = load_manifest(fetch_bundle(home))
    if not any(item.startswith("data.join_rows=") for item in options.items):
        # As in `evaluate`: what a user is was decided in training.
        rule = manifest.config.get("data", {}).get("join_rows", "auto")
        config = override(config, {"data.join_rows": rule})
    if is_watched():
        print_opening()

    from mbti_ray.data.chunks import ChunkPlan, choose_chunk_chars
    from mbti_ray.data.users import count_joined
    from mbti_ray.on_ray.batch_prediction import PredictionJob

    path = Path(options.input).expanduser()
    # Workers have another working directory.
    source = str(path.resolve()) if path.exists() else options.input
    joined = count_joined(source, config.data, unit=manifest.unit)
    plan = ChunkPlan(source, manifest.unit, choose_chunk_chars(source), config.data, joined=joined)
    if joined:
        notes.append(
            f"{sum(joined.values()):,} rows of {len(joined):,} authors are {len(joined):,} users, "
            "each in the place of its last row (data.join_rows)"
        )
    for note in notes:
        print_line(f"{options.input}: {note}")
    job = PredictionJob(absolute_location(home), plan, config)
    if is_folder:
        summary = _predict_to_folder(job, manifest, options)
    else:
        summary = _predict_to_file(job, output)
    print_line(f"{summary['rows']:,} rows: {output}")
    if summary["bad"]:
        with Path(summary["bad_rows"]).open(encoding="utf-8") as lines:
            rows = map(json.loads, lines)
            print_bad_rows(options.input, rows, summary["bad"], listed_in=summary["bad_rows"])
    return {"bundle": str(home), "bundle_id": manifest.id, "output": str(output), **summary}


def _check_options(options: argparse.Namespace, *, is_folder: bool) -> None:
    if not is_folder and (options.fresh or options.part_rows is not None):
        name = "--fresh" if options.fresh else "--part-rows"
        raise ConfigError(
            f"command line: {name} requires a folder of parts; --output {options.output} is a "
            "file, which is replaced as a whole"
        )
    if options.part_rows is not None and options.part_rows < 1:
        raise ConfigError(f"command line: --part-rows {options.part_rows}; allowed: 1 or more")
    source, output = Path(options.input).expanduser().resolve(), Path(options.output).resolve()
    if source == output:
        raise ConfigError(f"command line: --output {options.output} is the input; name another")
    if not is_folder and source == _bad_rows_of(output):
        raise ConfigError(
            f"command line: --output {options.output} lists its bad rows in the input; name another"
        )


def _bad_rows_of(output: Path) -> Path:
    return output.with_suffix(".bad.jsonl")


def _predict_to_file(job: "PredictionJob", output: Path) -> dict[str, Any]:
    from mbti_ray.on_ray.batch_prediction import predict_to_file

    bad_rows = _bad_rows_of(output)
    with _row_progress(job) as advance:
        stats = predict_to_file(job, output, bad_rows, advance)
    return {**vars(stats), "rows_s": stats.rows_s, "bad_rows": str(bad_rows)}


def _predict_to_folder(
    job: "PredictionJob", manifest: "Manifest", options: argparse.Namespace
) -> dict[str, Any]:
    from mbti_ray.data.sources import fingerprint_of
    from mbti_ray.on_ray.batch_prediction import SCHEMA
    from mbti_ray.storage.output_tables import part_folder

    with part_folder(
        Path(options.output),
        SCHEMA,
        made_from={
            "bundle": _determining_values(manifest, job.config.serve),
            "input": fingerprint_of(job.chunks.source)
            | job.config.data.model_dump(include={"columns", "separator"}, exclude_defaults=True)
            | ({"joined_authors": len(job.chunks.joined)} if job.chunks.joined else {}),
            "output": {"columns": SCHEMA.names},
        },
        settings={
            "part_rows": options.part_rows or _PART_ROWS,
            "chunk_chars": job.chunks.chunk_chars,
        },
        fresh=options.fresh,
    ) as folder:
        part_rows = folder.settings["part_rows"]
        if options.part_rows not in (None, part_rows):
            raise RunError(
                f"{folder.path}: was started with --part-rows {part_rows}; leave the option out, "
                "or delete its parts first with --fresh"
            )
        settings: dict[str, Any] = {**folder.settings, "done": frozenset(folder.done)}
        plan = replace(job.chunks, **settings)
        return _predict_missing_parts(replace(job, chunks=plan), folder)


def _predict_missing_parts(job: "PredictionJob", folder: "PartFolder") -> dict[str, Any]:
    from mbti_ray.on_ray.batch_prediction import PredictionStats, predict_to_folder

    before, stats = len(folder.done), PredictionStats()
    if before:
        print_line(f"{folder.path}: {before} parts are already complete")
    totals = folder.totals
    if totals is None:
        with _row_progress(job) as advance:
            advance(before * job.chunks.part_rows, "")
            stats = predict_to_folder(job, folder, advance)
        totals = folder.finalize()
    speed = {"seconds": stats.seconds, "rows_s": stats.rows_s}
    return {**totals, **speed, "before": before, "bad_rows": str(folder.bad_rows)}


def _determining_values(manifest: "Manifest", serve: ServeConfig) -> dict[str, Any]:
    """Everything in a bundle that determines its predictions, as JSON values."""
    values = manifest.model_dump(mode="json", include={*_DETERMINING_FIELDS}, exclude_none=True)
    if asked := serve.base_rates.model_dump(exclude_none=True):
        values["base_rates"] = [asked, manifest.base_rates]
    hashes = {str(kind): export.sha256 for kind, export in manifest.runtimes.items()}
    # Folders of earlier versions name none.
    values |= serve.model_dump(include={"precision"}, exclude_defaults=True)
    return {**values, "runtime": serve.runtime, "export": hashes.get(serve.runtime)}


@contextmanager
def _row_progress(job: "PredictionJob") -> Iterator[ProgressCallback]:
    """A connection to Ray, and the callback that advances the progress bar."""
    from mbti_ray.data.sources import count_rows
    from mbti_ray.on_ray.cluster.resources import ray_connection

    source = job.chunks.source
    total = count_rows(source, job.chunks.options) if is_watched() else None
    with ExitStack() as stack:
        with step("starting Ray"):
            stack.enter_context(ray_connection(f"predict {Path(source).name}"))
        yield stack.enter_context(progress_bar("rows", total))


def _looks_like_a_path(item: str) -> bool:
    # Path.is_dir raises for what is too long for the name of a file.
    return os.path.isdir(item) or ("/" in item and not re.search(r"\s", item))  # noqa: PTH112


if __name__ == "__main__":
    raise SystemExit(main())
