"""`python -m mbti_ray.train`: one run through TorchTrainer, from a config to a bundle."""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mbti_ray.cli.command import add_existing, build_parser, run_command
from mbti_ray.cli.next_commands import commands_for, watch_command
from mbti_ray.cli.progress import step
from mbti_ray.cli.run_progress import run_progress
from mbti_ray.cli.run_setup import RunSetup, set_up_run
from mbti_ray.cli.tables import (
    Result,
    print_commands,
    print_findings,
    print_heading,
    print_line,
    print_pairs,
    print_scorecard,
    print_scores,
    print_verdict,
    print_warning,
)
from mbti_ray.config import PRESETS, RunConfig, load_run
from mbti_ray.config.resume import describe_schedule_change
from mbti_ray.data.frames import save_frame
from mbti_ray.errors import ConfigError
from mbti_ray.runs.lookup import storage_folder
from mbti_ray.storage.local_cache import user_cache_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "train",
        "Train one run. Without arguments: the preset quick on the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}) or FILE.yaml, then key=value (optim.lr=3e-5)",
        examples=(
            "quick                         # seconds",
            "minilm data.source=my.csv name=mine",
            "minilm data.source=my.csv fit.epochs=3 optim.lr=1e-4",
            "--resume name=mine",
        ),
    )
    add_existing(parser)
    return run_command(parser, _train, argv)


def train_on(source: Any, *, preset: str, settings: Mapping[str, Any]) -> str:
    """Train one run on a source or data frame, as the command does; returns where its bundle is.

    Args:
        source: As `data.source` takes it, or a data frame as `save_frame` takes it.
        settings: Values by their addresses.

    Raises:
        MbtiRayError: What the command reports as one line.
    """
    values = [f"{key}={_as_argument(value)}" for key, value in settings.items()]
    try:
        storage = load_run(preset, values).storage
    except ConfigError as error:
        raise ConfigError(str(error).replace("command line: ", "settings: ")) from None
    if not isinstance(source, str | Path):
        folder = storage_folder(storage)
        local = folder if isinstance(folder, Path) else user_cache_folder()
        source = save_frame(source, local / "frames")
    items = [preset, f"data.source={source}", *values]
    return str(_train(argparse.Namespace(items=items, existing="refuse"))["bundle"])


def _as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _train(options: argparse.Namespace) -> Result:
    with set_up_run(options, load=load_run) as run:
        return _train_run(run)


def _train_run(run: RunSetup[RunConfig]) -> Result:
    from mbti_ray.engine.summary import few_steps_warning, summarize

    folder = run.folder
    print_pairs([("run", str(folder.location)), *summarize(run.config, run.data)])
    warnings = [few_steps_warning(run.config, run.data)]
    if run.existing == "resume":
        warnings.append(describe_schedule_change(folder.config, run.config))
    for warning in filter(None, warnings):
        print_warning(warning)

    with ExitStack() as stack:
        with step("starting Ray"):
            from mbti_ray.on_ray.cluster.preflight import check_before_run
            from mbti_ray.on_ray.cluster.resources import ray_connection, run_resources
            from mbti_ray.on_ray.train.trainer import train

            dashboard = stack.enter_context(ray_connection(f"train {folder.location.name}"))
        nodes = check_before_run(run.config, folder.location.parent, warn=print_warning)
        resources = run_resources(run.config, nodes)
        run.begin()
        device = f"{resources.device}, {resources.cpus} CPU(s) and threads a worker"
        print_pairs([("device", device), *watch_command(dashboard)])
        with run_progress(run.config) as shown:
            train(run.config, run.data, folder, resources, display=shown, notify=print_warning)
    for note in folder.read_notes():
        print_line(note)
    scores = json.loads(folder.scores.read_text("utf-8"))
    verdict = print_verdict(scores["scorecard"], run.data.info.as_dict())
    print_heading("validation (chose the best)")
    print_scores(scores["val"])
    print_heading("test (scored once)")
    print_scorecard({"test": scores["scorecard"]})
    print_findings(scores["diagnosis"])
    bundle = folder.location / folder.bundle.name
    print_commands(commands_for(folder))
    return {
        "run": str(folder.location),
        "bundle": str(bundle),
        "verdict": verdict,
        "scores": scores,
    }


if __name__ == "__main__":
    raise SystemExit(main())
