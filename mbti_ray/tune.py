"""`python -m mbti_ray.tune`: a study over a run's config, from a YAML file to the best bundle."""

import argparse
import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mbti_ray.cli.command import add_existing, build_parser, relative, run_command
from mbti_ray.cli.next_commands import commands_for, watch_commands
from mbti_ray.cli.progress import step, study_progress
from mbti_ray.cli.run_setup import RunSetup, set_up_run
from mbti_ray.cli.tables import (
    Result,
    format_short,
    print_commands,
    print_findings,
    print_heading,
    print_line,
    print_outcome,
    print_pairs,
    print_trials,
    print_warning,
)
from mbti_ray.config import StudyConfig, load_study
from mbti_ray.errors import ConfigError, counted

if TYPE_CHECKING:
    from mbti_ray.data.processes import ProcessMap
    from mbti_ray.on_ray.cluster.resources import Resources
    from mbti_ray.scores.study_summary import StudySummary


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "tune",
        "Search hyperparameters. Without arguments: a small study on the built-in corpus.",
        items="STUDY.yaml, then key=value, such as study.trials=30 or data.source=FILE",
        examples=(
            "tune_configs/quick.yaml        # a minute",
            "tune_configs/minilm.yaml data.source=my.csv name=mine",
            "tune_configs/minilm.yaml study.trials=30 study.hours=2",
            "--resume name=mine",
        ),
    )
    add_existing(parser)
    return run_command(parser, _tune, argv, exit_code=_exit_code)


def _exit_code(result: Result) -> int:
    # A study that a signal stopped is finished with the trials that it has.
    name = str(result["ended_early"]).removeprefix("stopped by ")
    return 128 + signal.Signals[name] if name in signal.Signals.__members__ else 0


def _tune(options: argparse.Namespace) -> Result:
    with set_up_run(options, load=_load, map_batches=_cluster_map, name_prefix="study-") as run:
        return _tune_study(run)


def _cluster_map() -> "ProcessMap":
    # Importing on_ray sets variables of Ray: not before the arguments are known to be right.
    from mbti_ray.on_ray.cluster_map import ClusterMap

    return ClusterMap()


def _load(base: str | None, overrides: Sequence[str]) -> StudyConfig:
    config = load_study(base, overrides)
    if not config.model.has_encoder:
        raise ConfigError("model.reader=tfidf: has nothing to search; train fits it in seconds")
    return config


def _tune_study(run: RunSetup[StudyConfig]) -> Result:
    from mbti_ray.model.tfidf import require_sklearn

    config, folder, data = run.config, run.folder, [run.data, *run.folds]
    if config.model.has_tfidf:
        require_sklearn()
    with ExitStack() as stack:
        with step("starting Ray"):
            from mbti_ray.engine.summary import few_steps_warning, summarize
            from mbti_ray.on_ray.cluster.preflight import check_before_run
            from mbti_ray.on_ray.cluster.resources import (
                concurrent_trials,
                ray_connection,
                trial_resources,
            )
            from mbti_ray.on_ray.tune.tuner import finish_study, run_study

            dashboard = stack.enter_context(ray_connection(f"tune {folder.location.name}"))
        nodes = check_before_run(config, folder.location.parent, warn=print_warning)
        resources = trial_resources(config, nodes)
        at_once = concurrent_trials(config, resources, nodes)
        search_line = _describe_search(config, at_once, resources)
        pairs = [("study", relative(folder.location)), ("search", search_line)]
        print_pairs([*pairs, *summarize(config, run.data)])
        print_commands(watch_commands(dashboard))
        if warning := few_steps_warning(config, run.data):
            print_warning(warning)
        run.begin()
        with study_progress(config) as shown:
            study, stopped_early = run_study(
                config, data, folder, resources, at_once=at_once, display=shown, notify=print_line
            )
        best = "training" if config.data.trains_on_all else "scoring"
        with step(f"{best} the best trial"):
            summary = finish_study(
                config, data, study, folder, resources, at_once=at_once, stopped_early=stopped_early
            )
    return _print_summary(summary, run)


def _describe_search(config: StudyConfig, at_once: int, resources: "Resources") -> str:
    study = config.study
    budget = [counted(study.trials, "trial")] if study.trials else []
    budget += [f"{study.hours:g} h"] if study.hours else []
    each = f", {study.seeds} seeds each" if study.seeds > 1 else ""
    each += f", {config.data.folds} folds each" if config.data.trains_on_all else ""
    return (
        f"{' or '.join(budget)} for {', '.join(config.objectives)}, {at_once} at once with "
        f"{counted(resources.cpus, 'CPU')} and {resources.gpus:g} GPU a worker{each}, scheduler "
        f"{study.scheduler}"
    )


def _print_summary(summary: "StudySummary", run: RunSetup[StudyConfig]) -> Result:
    folder = run.folder
    scores = json.loads(folder.best.scores.read_text("utf-8"))
    verdict = print_outcome(scores, run.data.info.as_dict(), run.config.data.folds)
    print_heading("trials")
    print_trials(summary)
    if summary["stopped_early"]:
        print_line(f"ended early: {summary['stopped_early']}")
    best = summary["best_values"]
    values = ", ".join(f"{a}={format_short(value)}" for a, value in best.items())
    print_pairs([("best", f"trial {summary['best']}: {values}"), ("", summary["bundle"])])
    print_findings([*scores["diagnosis"], *summary["findings"]])
    print_commands(commands_for(folder, run.config.study))
    return {
        "study": str(folder.location),
        "bundle": str(folder.best.location / folder.bundle.name),
        "verdict": verdict,
        "trials": summary["counts"],
        "ended_early": summary["stopped_early"],
        "best": best,
        "front": summary["front"],
        "command": summary["command"],
        "scores": scores,
        "diagnosis": summary["findings"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
