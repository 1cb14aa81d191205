"""`python -m mbti_ray.train`: one run through TorchTrainer, from a config to a bundle."""

import argparse
import json
from collections.abc import Sequence

from mbti_ray.cli.command import add_existing, build_parser, default_name, run_command, split_base
from mbti_ray.cli.progress import progress_bar, run_progress
from mbti_ray.cli.tables import (
    Result,
    console,
    print_bad_rows,
    print_findings,
    print_pairs,
    print_scorecard,
    print_scores,
    print_warning,
)
from mbti_ray.config import PRESETS, RunConfig, load_run
from mbti_ray.config.resume import resumed_run
from mbti_ray.runs.lookup import cache_folder, resolve_run_folder
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.storage.local_cache import local_file


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "train",
        "Train one run. Without arguments: the preset quick on the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}) or FILE.yaml, then key=value (optim.lr=3e-5)",
    )
    add_existing(parser)
    return run_command(parser, _train, argv)


def _train(options: argparse.Namespace) -> Result:
    place, overrides = split_base(options.items)
    base = local_file(place)
    config = load_run(base, overrides)
    chosen = resolve_run_folder(config, default_name=default_name(place), existing=options.existing)
    with chosen.checked_out() as folder:
        if options.existing == "resume":
            config = resumed_run(folder.config, base, overrides)
        return _train_in(folder, config, options)


def _train_in(folder: RunFolder, config: RunConfig, options: argparse.Namespace) -> Result:
    from mbti_ray.data.dataset import prepare_dataset
    from mbti_ray.engine.summary import summarize

    with progress_bar("tokenising", None) as advance:
        data = prepare_dataset(config, cache_folder(config.storage), advance=advance)
    bad_rows = data.info.as_dict()["bad"]
    print_bad_rows(config.data.source, bad_rows, folder.location / folder.bad_rows.name)
    print_pairs([("run", str(folder.location)), *summarize(config, data)])

    from mbti_ray.on_ray.cluster.preflight import check_before_run
    from mbti_ray.on_ray.cluster.resources import ray_connection, run_resources
    from mbti_ray.on_ray.train.trainer import train

    with ray_connection(f"train {folder.location.name}"):
        nodes = check_before_run(config, folder.location.parent, warn=print_warning)
        resources = run_resources(config, nodes)
        folder.begin(config, options.existing)
        folder.write_bad_rows(bad_rows)
        with run_progress() as show:
            train(config, data, folder, resources, show=show)
    for note in folder.read_notes():
        console.print(note, markup=False, soft_wrap=True)
    scores = json.loads(folder.scores.read_text("utf-8"))
    print_scores({"val": scores["val"]})
    print_scorecard({"test": scores["scorecard"]})
    print_findings(scores["diagnosis"])
    bundle = folder.location / folder.bundle.name
    console.print(f"report: {folder.location / folder.report.name}")
    console.print(f"bundle: {bundle}")
    return {"run": str(folder.location), "bundle": str(bundle), "scores": scores}


if __name__ == "__main__":
    raise SystemExit(main())
