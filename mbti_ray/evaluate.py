"""`python -m mbti_ray.evaluate`: scores of a bundle on a labeled file."""

import argparse
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from mbti_ray.cli.command import add_base_rates, build_parser, run_command, split_base
from mbti_ray.cli.progress import print_opening, progress_bar
from mbti_ray.cli.run_setup import check_rows
from mbti_ray.cli.tables import Result, print_line, print_pairs, print_scorecard, print_verdict
from mbti_ray.config import load_run
from mbti_ray.config.load import base_rate_overrides
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle, locked_outputs


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "evaluate",
        "Score a bundle on labeled rows, with and without type words, and compare it with "
        "baselines.",
        items="BUNDLE (a bundle, run or study, by folder or URL; default: the newest), "
        "data.source=FILE",
        examples=(
            "runs/mine",
            "runs/mine data.source=new.csv --report new.html",
            "runs/mine --report it.html scoring.examples=9",
        ),
    )
    parser.add_argument(
        "--split",
        choices=("auto", "all", "train", "val", "test"),
        default="auto",
        help="rows to score; auto: those that it was neither trained nor validated on",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write each row's prediction"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.html", help="also write a report with the scorecard"
    )
    add_base_rates(parser)
    return run_command(parser, _evaluate, argv)


def _evaluate(options: argparse.Namespace) -> Result:
    with locked_outputs(options.output, options.report):
        return _evaluate_and_write(options)


def _evaluate_and_write(options: argparse.Namespace) -> Result:
    place, overrides = split_base(options.items)
    overrides = [*overrides, *base_rate_overrides(options.base_rates)]
    home = locate_bundle(place, load_run(None, overrides).storage)

    from mbti_ray.inference.manifest import load_manifest
    from mbti_ray.storage.output_tables import check_extension

    bundle = fetch_bundle(home)
    check_rows(load_manifest(bundle).config, overrides, output=options.output)
    if options.output is not None:
        check_extension(options.output)
    if options.report is not None:
        check_extension(options.report, (".html",), option="--report")
    print_opening()

    from mbti_ray.inference.evaluation import evaluate_bundle, load_evaluation_data
    from mbti_ray.reports.html import write_page
    from mbti_ray.reports.scorecard_page import About, scorecard_page
    from mbti_ray.storage.output_tables import write_tables

    data = load_evaluation_data(bundle, overrides, split=options.split)
    with progress_bar("rows", len(data.origins)) as advance:
        evaluation = evaluate_bundle(bundle, data, advance)
    print_pairs(
        [
            ("bundle", f"{home} ({evaluation.bundle_id})"),
            ("data", data.description),
            *((name, _summarize(scores)) for name, scores in evaluation.groups.items()),
        ]
    )
    verdict = print_verdict(next(iter(evaluation.scorecards.values())), data.facts)
    print_scorecard(evaluation.scorecards)
    if options.output is not None:
        write_tables(options.output, [evaluation.rows], evaluation.rows.schema)
        print_line(f"rows: {options.output}")
    if options.report is not None:
        page = scorecard_page(
            f"{home} on {data.description}",
            evaluation.scorecards,
            kind="evaluation",
            about=About(data.config, str(home), str(date.today())),
            data_info=data.facts,
            groups=evaluation.groups,
            mistakes=evaluation.mistakes,
        )
        write_page(options.report, page)
        print_line(f"report: {options.report}")
    return {
        "bundle": str(home),
        "bundle_id": evaluation.bundle_id,
        "split": data.split,
        "verdict": verdict,
        "scores": evaluation.scores,
        "groups": evaluation.groups,
        "scorecards": evaluation.scorecards,
    }


def _summarize(scores: Mapping[str, float]) -> str:
    text = (
        f"{scores['rows']:,.0f} rows: accuracy {scores['acc_mean']:.3f}, macro-F1 "
        f"{scores['f1_mean']:.3f}, all four {scores['acc_total']:.3f}"
    )
    if "rmse_shares" in scores:
        text += f", RMSE from the shares {scores['rmse_shares']:.3f}"
    return text


if __name__ == "__main__":
    raise SystemExit(main())
