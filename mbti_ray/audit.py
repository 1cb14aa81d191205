"""`python -m mbti_ray.audit`: what is in a data file, before anything is trained on it.

Shows what `data.audit` counted, on the screen and, where asked to, as a page.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape as unmarked
from rich.table import Table

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.progress import progress_bar
from mbti_ray.cli.tables import Result, console
from mbti_ray.config import PRESETS, load_run
from mbti_ray.reports.audit_sections import Section, audit_sections
from mbti_ray.reports.html import check_page_path, write_whole


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "audit",
        "Say what is in a data file: shares, lengths, repeats across the split, and how far the "
        "texts\ngive their own label away. Without arguments: the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}; default: quick) or FILE.yaml, data.source=FILE "
        "and other key=value",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="also write a page with the same figures"
    )
    return run_command(parser, _audit, argv)


def _audit(options: argparse.Namespace) -> Result:
    config = load_run(*split_base(options.items))
    if options.output is not None:
        check_page_path(options.output)

    from mbti_ray.data.audit import audit
    from mbti_ray.data.sources import read_source

    source = read_source(config.data.source, max_bad_share=config.data.max_bad_share)
    with progress_bar("tokenising", sum(len(row.posts) for row in source.rows)) as advance:
        found = audit(config, source, advance=advance).as_dict()
    console.print(
        f"[bold]{unmarked(found['source'])}[/bold] {found['fingerprint']}", soft_wrap=True
    )
    sections = list(audit_sections(found, config))
    for section in sections:
        _print_section(section)
    if options.output is not None:
        from mbti_ray.reports.audit_page import audit_page

        write_whole(options.output, audit_page(found, sections))
        console.print(f"page: {unmarked(str(options.output))}")
    return found


def _print_section(section: Section) -> None:
    table = Table(box=None, pad_edge=False, title_justify="left", show_header=any(section.header))
    table.add_column("")
    for name in section.header:
        table.add_column(name, justify="right")
    for row in section.rows:
        table.add_row(*map(unmarked, row))
    console.print(f"\n[bold]{section.heading}[/bold]")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
