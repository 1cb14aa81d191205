"""`python -m mbti_ray.compare`: two bundles on the same persons, and which one is better."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.progress import print_opening, progress_bar
from mbti_ray.cli.run_setup import check_rows
from mbti_ray.cli.tables import Result, print_comparison, print_line, print_pairs
from mbti_ray.config import load_run
from mbti_ray.errors import ConfigError
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle, locked_outputs

_EXAMPLE = "runs/old runs/new data.source=people.csv"


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "compare",
        "Compare two bundles on labeled rows that neither has seen in training: the differences "
        "with intervals and p-values, and who flipped.",
        items="A B (bundles, runs or studies, by folder or URL), then data.source=FILE",
        examples=(_EXAMPLE,),
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write what both predict for each row"
    )
    return run_command(parser, _compare, argv)


def _compare(options: argparse.Namespace) -> Result:
    with locked_outputs(options.output):
        return _compare_and_write(options)


def _compare_and_write(options: argparse.Namespace) -> Result:
    first, rest = split_base(options.items)
    second, overrides = split_base(rest)
    if first is None or second is None:
        raise ConfigError(f"command line: compare takes two bundles, as in {_EXAMPLE}")
    storage = load_run(None, overrides).storage
    homes = locate_bundle(first, storage), locate_bundle(second, storage)
    bundles = fetch_bundle(homes[0]), fetch_bundle(homes[1])

    from mbti_ray.inference.manifest import load_manifest
    from mbti_ray.storage.output_tables import check_extension

    manifests = [load_manifest(bundle) for bundle in bundles]
    check_rows(manifests[0].config, overrides, output=options.output)
    if options.output is not None:
        check_extension(options.output)
    print_opening()

    from mbti_ray.inference.comparison import compare_bundles, load_compared_rows
    from mbti_ray.scores.comparison import describe_comparison
    from mbti_ray.storage.output_tables import write_tables

    rows = load_compared_rows(*bundles, overrides)
    with progress_bar("predictions", 2 * len(rows.examples)) as advance:
        found, table = compare_bundles(*bundles, rows, advance)
    verdict = describe_comparison(found, "A", "B")
    print_pairs([("A", str(homes[0])), ("B", str(homes[1])), ("data", rows.description)])
    print_line(verdict, style="bold")
    print_comparison(found)
    if options.output is not None:
        write_tables(options.output, [table], table.schema)
        print_line(f"rows: {options.output}")
    return {"first": str(homes[0]), "second": str(homes[1]), "verdict": verdict, **found}


if __name__ == "__main__":
    raise SystemExit(main())
