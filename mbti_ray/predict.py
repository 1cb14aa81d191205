"""`python -m mbti_ray.predict`: predictions for texts, or for a file through Ray Data."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mbti_ray.cli import Result, build_parser, console, print_predictions, progress_bar, run_command
from mbti_ray.config import RunConfig, load_overrides
from mbti_ray.errors import ConfigError
from mbti_ray.runs import chosen_bundle

_ALLOWED = ("storage", "scaling.cpus", "scaling.use_gpu")
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "predict",
        "Predict the type of texts, or of every row of a file.",
        items='BUNDLE (a folder; the newest without it), "text" ..., key=value (storage=FOLDER)',
    )
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help=".csv, .jsonl or .parquet with posts or text"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=".csv, .jsonl or .parquet; needs --input"
    )
    return run_command(parser, _predict, argv)


def _predict(options: argparse.Namespace) -> Result:
    overrides = [item for item in options.items if _OVERRIDE.match(item)]
    rest = [item for item in options.items if item not in overrides]
    config = load_overrides(RunConfig(), overrides, allowed=_ALLOWED)
    place = rest.pop(0) if rest and _looks_like_a_path(rest[0]) else None
    if (options.input is None) != (options.output is None):
        raise ConfigError("command line: --input and --output go together")
    if options.input is not None and rest:
        raise ConfigError(f'command line: both --input and a text ("{rest[0][:40]}"); give one')
    if options.input is None and not rest:
        raise ConfigError('command line: nothing to predict; give "text" ..., or --input FILE')
    bundle = chosen_bundle(place, config.storage)

    if options.input is None:
        from mbti_ray.predictor import Predictor

        predictions = Predictor.load(bundle).predict([[text] for text in rest], whole=False)
        answers = [prediction.as_dict() for prediction in predictions]
        print_predictions(rest, answers)
        return {"bundle": str(bundle), "predictions": answers}

    from mbti_ray.data.sources import read_source
    from mbti_ray.tables import check_ending

    check_ending(options.output)
    source = read_source(str(options.input), labelled=False)

    from mbti_ray.on_ray.cluster import connected
    from mbti_ray.on_ray.predicting import predict_rows, rows_to_predict

    table = rows_to_predict(bundle, source)
    with connected(), progress_bar("rows", len(table)) as advance:
        rows = predict_rows(bundle, table, options.output, config, advance)
    console.print(f"{rows:,} rows: {options.output}")
    for bad in source.bad:
        console.print(f"{options.input}:{bad.number}: left out: {bad.reason}")
    return {
        "bundle": str(bundle),
        "output": str(options.output),
        "rows": rows,
        "bad": len(source.bad),
    }


def _looks_like_a_path(item: str) -> bool:
    return Path(item).is_dir() or ("/" in item and not re.search(r"\s", item))


if __name__ == "__main__":
    raise SystemExit(main())
