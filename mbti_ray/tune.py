"""`python -m mbti_ray.tune`: a study over a run's config, from a YAML file to the best bundle."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mbti_ray.cli import (
    Result,
    add_existing,
    build_parser,
    console,
    default_name,
    print_bad_rows,
    print_findings,
    print_pairs,
    print_scorecard,
    print_scores,
    print_trials,
    progress_bar,
    run_command,
    short,
    split_base,
    trial_progress,
)
from mbti_ray.config import RunConfig, StudyConfig, load_study, value_at
from mbti_ray.config.resume import resumed_study
from mbti_ray.runs import RunFolder, cache_folder, choose_run

if TYPE_CHECKING:
    import optuna


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "tune",
        "Search hyperparameters. Without arguments: a small study on the built-in corpus.",
        items="STUDY.yaml, then key=value, such as study.trials=30 or data.source=FILE",
    )
    add_existing(parser)
    return run_command(parser, _tune, argv)


def _tune(options: argparse.Namespace) -> Result:
    base, overrides = split_base(options.items)
    config = load_study(base, overrides)
    folder = choose_run(
        config, default_name=f"study-{default_name(base)}", existing=options.existing
    )
    if options.existing == "resume":
        config = resumed_study(folder.config, base, overrides)

    from mbti_ray.data.prepare import prepare_dataset
    from mbti_ray.engine.summary import summarize

    with progress_bar("tokenising", None) as advance:
        data = prepare_dataset(config, cache_folder(config.storage), advance=advance)
    bad_rows = data.facts.as_dict()["bad"]
    print_bad_rows(config.data.source, bad_rows, folder.bad_rows)

    from mbti_ray.on_ray.cluster import connected, trial_resources, trials_at_once
    from mbti_ray.on_ray.tuning import finish_study, search

    with connected():
        resources = trial_resources(config)
        at_once = trials_at_once(config, resources, config.study.max_concurrent)
        search_line = (
            f"{config.study.trials} trials for {config.objective}, {at_once} at once with "
            f"{resources.cpus} CPU and {resources.gpus} GPU a worker, "
            f"scheduler {config.study.scheduler}"
        )
        print_pairs(
            [("study", str(folder.path)), ("search", search_line), *summarize(config, data)]
        )
        folder.begin(config, options.existing)
        folder.write_bad_rows(bad_rows)
        with trial_progress(config.study.trials, config.objective) as on_trial:
            study = search(config, data, folder, resources, at_once=at_once, on_trial=on_trial)
        best = finish_study(config, data, study, folder, resources)
    return _conclude(config, study, folder.best, best)


def _conclude(
    config: StudyConfig, study: "optuna.Study", best: RunFolder, run: RunConfig
) -> Result:
    from mbti_ray.on_ray.tuning import findings_of

    scores = json.loads(best.scores.read_text("utf-8"))
    trials = study.get_trials(deepcopy=False)
    print_trials(trials, config.objective)
    found = {address: value_at(run, address) for address in config.search}
    findings = findings_of(study, config)
    print_pairs([("best", ", ".join(f"{a}={short(value)}" for a, value in found.items()))])
    print_scores({"val": scores["val"]})
    print_scorecard({"test": scores["scorecard"]})
    print_findings([*scores["diagnosis"], *findings])
    console.print(f"report: {best.report}")
    console.print(f"bundle: {best.bundle}")
    states = [trial.state.name for trial in trials]
    return {
        "study": str(best.path.parent),
        "bundle": str(best.bundle),
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "best": found,
        "scores": scores,
        "diagnosis": findings,
    }


if __name__ == "__main__":
    raise SystemExit(main())
