"""`python -m mbti_ray.evaluate`: scores of a bundle on a labelled file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mbti_ray.cli import (
    Result,
    build_parser,
    console,
    print_pairs,
    print_scores,
    progress_bar,
    run_command,
    split_base,
)
from mbti_ray.config import load_run
from mbti_ray.runs import chosen_bundle

_SPLITS = ("auto", "all", "train", "val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "evaluate",
        "Score a bundle on labelled rows, beside always giving the commonest answer.",
        items="BUNDLE (a bundle, run or study folder; default: the newest), data.source=FILE",
    )
    parser.add_argument(
        "--split",
        choices=_SPLITS,
        default="auto",
        help="rows to score; auto: the test split of the data it was trained on, all of any other",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also write a row's labels and probabilities"
    )
    return run_command(parser, _evaluate, argv)


def _evaluate(options: argparse.Namespace) -> Result:
    place, overrides = split_base(options.items)
    bundle = chosen_bundle(place, load_run(None, overrides).storage)

    from mbti_ray.labelled import evaluate_bundle, read_labelled
    from mbti_ray.tables import check_ending, write_table

    if options.output is not None:
        check_ending(options.output)
    labelled = read_labelled(bundle, overrides, split=options.split)
    with progress_bar("rows", len(labelled.examples)) as advance:
        evaluation = evaluate_bundle(bundle, labelled, advance)
    print_pairs([("bundle", f"{bundle} ({evaluation.bundle_id})"), ("data", labelled.description)])
    print_scores({labelled.split: evaluation.scores})
    if options.output is not None:
        write_table(options.output, evaluation.rows)
        console.print(f"rows: {options.output}")
    return {
        "bundle": str(bundle),
        "bundle_id": evaluation.bundle_id,
        "split": labelled.split,
        "scores": evaluation.scores,
    }


if __name__ == "__main__":
    raise SystemExit(main())
