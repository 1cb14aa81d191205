"""`python -m mbti_ray.audit`: statistics of a data source, on the terminal and as an HTML page."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.progress import print_opening, progress_bar
from mbti_ray.cli.run_setup import check_inputs
from mbti_ray.cli.tables import Result, print_line, print_table
from mbti_ray.config import PRESETS, load_run
from mbti_ray.reports.html import write_page
from mbti_ray.runs.lookup import require_outside_bundles


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "audit",
        "Show what is in a data file: class shares, lengths, duplicates across splits, and how "
        "far texts leak their label. Without arguments: the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}; default: quick) or FILE.yaml, data.source=FILE "
        "and other key=value",
        examples=("data.source=my.csv", "data.source=my.csv --output my.html"),
    )
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="also write an HTML page")
    return run_command(parser, _audit, argv)


def _audit(options: argparse.Namespace) -> Result:
    config = load_run(*split_base(options.items))
    if options.output is not None:
        from mbti_ray.storage.output_tables import check_extension

        require_outside_bundles(options.output)
        check_extension(options.output, (".html",))
    check_inputs(config)
    print_opening()

    from mbti_ray.data.audit import audit
    from mbti_ray.data.users import load_users
    from mbti_ray.on_ray.cluster_map import ClusterMap
    from mbti_ray.reports.audit_page import audit_conclusions, audit_page, audit_tables

    with ClusterMap() as map_batches:
        source = load_users(config.data, map_batches=map_batches)
        with progress_bar("tokenizing", int(source.rows.posts.totals.sum())) as advance:
            statistics = audit(config, source, advance=advance, map_batches=map_batches)
    print_line(f"{statistics['source']} {statistics['fingerprint']}", style="bold")
    for note in source.notes:
        print_line(note)
    conclusions = list(audit_conclusions(statistics, config))
    for sentence in conclusions:
        print_line(sentence)
    tables = list(audit_tables(statistics, config))
    for table in tables:
        print_table(*table)
    if options.output is not None:
        write_page(options.output, audit_page(statistics, tables, conclusions))
        print_line(f"page: {options.output}")
    return statistics


if __name__ == "__main__":
    raise SystemExit(main())
