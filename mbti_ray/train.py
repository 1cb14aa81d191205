"""`python -m mbti_ray.train`: one run through TorchTrainer, from a config to a bundle."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mbti_ray.cli.command import add_existing, build_parser, relative, run_command
from mbti_ray.cli.next_commands import commands_for, watch_commands
from mbti_ray.cli.progress import run_progress, step
from mbti_ray.cli.run_setup import RunSetup, set_up_run
from mbti_ray.cli.tables import (
    Result,
    print_commands,
    print_findings,
    print_line,
    print_outcome,
    print_pairs,
    print_warning,
)
from mbti_ray.config import PRESETS, RunConfig, load_run
from mbti_ray.config.resume import describe_schedule_change
from mbti_ray.errors import counted
from mbti_ray.runs.lookup import storage_folder
from mbti_ray.runs.run_folder import Existing, RunFolder
from mbti_ray.storage.local_cache import user_cache_folder

if TYPE_CHECKING:
    from mbti_ray.data.dataset import Dataset
    from mbti_ray.data.processes import ProcessMap

# Trains a run to its bundle, in a folder that has been started.
Fit: TypeAlias = Callable[[RunConfig, "Dataset", RunFolder], None]


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "train",
        "Train one run. Without arguments: the preset quick on the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}) or FILE.yaml, then key=value (optim.lr=3e-5)",
        examples=(
            "quick                         # seconds",
            "minilm data.source=my.csv name=mine",
            "minilm data.source=my.csv fit.epochs=3 optim.lr=1e-4",
            "data.source=my.csv model.reader=tfidf data.folds=5",
            "--resume name=mine",
        ),
    )
    add_existing(parser)
    return run_command(parser, _train, argv)


def train_on(
    source: Any, *, preset: str | Path, settings: Mapping[str, Any], existing: Existing
) -> str:
    """Train one run as the command does; returns where its bundle is.

    On a source as `data.source` takes it, or a data frame as `save_frame` takes it, with settings
    by their addresses. Raises the MbtiRayError that the command reports as one line.
    """
    items = [str(preset), *(f"{key}={_as_argument(value)}" for key, value in settings.items())]
    storage = load_run(items[0], items[1:]).storage
    if not isinstance(source, str | Path):
        from mbti_ray.data.readers import save_frame

        folder = storage_folder(storage)
        local = folder if isinstance(folder, Path) else user_cache_folder()
        source = save_frame(source, local / "frames")
    items.insert(1, f"data.source={source}")
    return str(_train(argparse.Namespace(items=items, existing=existing))["bundle"])


def _as_argument(value: Any) -> str:
    if isinstance(value, str | Path):
        return str(value)
    # Numbers and arrays of NumPy, paths in a list.
    return json.dumps(value, default=lambda v: getattr(v, "tolist", v.__str__)())


def _train(options: argparse.Namespace) -> Result:
    with set_up_run(options, load=load_run, map_batches=_cluster_map) as run:
        from mbti_ray.model.tfidf import require_sklearn

        if run.config.model.has_tfidf:
            require_sklearn()
        _print_summary(run)
        with _trainer(run) as fit:
            fit(_train_folds(run, fit) if run.folds else run.config, run.data, run.folder)
        return _print_scores(run)


def _cluster_map() -> "ProcessMap":
    # Importing on_ray sets variables of Ray: not before the arguments are known to be right.
    from mbti_ray.on_ray.cluster_map import ClusterMap

    return ClusterMap()


def _print_summary(run: RunSetup[RunConfig]) -> None:
    with step("importing torch"):
        from mbti_ray.engine.summary import few_steps_warning, summarize

    config, folder = run.config, run.folder
    print_pairs([("run", relative(folder.location)), *summarize(config, run.data)])
    warnings = [few_steps_warning(config, run.data)]
    if run.existing == "resume":
        warnings.append(describe_schedule_change(folder.config, config))
    for warning in filter(None, warnings):
        print_warning(warning)


@contextmanager
def _trainer(run: RunSetup[RunConfig]) -> Iterator[Fit]:
    """Begin the run; yields what trains one to its bundle, through TorchTrainer with an encoder."""
    if not run.config.model.has_encoder:
        run.begin()
        yield _fit_tfidf
        return
    home = run.folder.location
    with ExitStack() as stack:
        with step("starting Ray"):
            from mbti_ray.on_ray.cluster.preflight import check_before_run
            from mbti_ray.on_ray.cluster.resources import ray_connection, run_resources
            from mbti_ray.on_ray.train.trainer import train

            dashboard = stack.enter_context(ray_connection(f"train {home.name}", is_run=True))
        nodes = check_before_run(run.config, home.parent, warn=print_warning)
        resources = run_resources(run.config, nodes)
        run.begin()
        cpus = counted(resources.cpus, "CPU")
        print_pairs([("device", f"{resources.device}, {cpus} a worker")])
        print_commands(watch_commands(dashboard))

        def fit(config: RunConfig, data: "Dataset", folder: RunFolder) -> None:
            if not config.model.has_encoder:
                return _fit_tfidf(config, data, folder)
            place = folder.location
            name = place.name if place == home else f"{home.name}/{place.name}"
            with run_progress(config) as shown:
                train(
                    config, data, folder, resources, name=name, display=shown, notify=print_warning
                )

        yield fit


def _fit_tfidf(config: RunConfig, data: "Dataset", folder: RunFolder) -> None:
    from mbti_ray.inference.finalize import finalize_run

    finalize_run(config, data, None, folder)
    folder.push(replace=[folder.bundle.name])


def _train_folds(run: RunSetup[RunConfig], fit: Fit) -> RunConfig:
    from mbti_ray.inference.folds import train_folds

    def train(config: RunConfig, fold: RunFolder) -> None:
        fold.begin(config, "resume" if fold.config.exists() else "refuse")
        fit(config, run.folds[(config.data.fold or 1) - 1], fold)

    return train_folds(run.config, run.folder, train, notify=print_line)


def _print_scores(run: RunSetup[RunConfig]) -> Result:
    folder = run.folder
    for note in folder.read_notes():
        print_line(note)
    scores = json.loads(folder.scores.read_text("utf-8"))
    verdict = print_outcome(scores, run.data.info.as_dict(), run.config.data.folds)
    print_findings(scores["diagnosis"])
    print_commands(commands_for(folder))
    return {
        "run": str(folder.location),
        "bundle": str(folder.location / folder.bundle.name),
        "verdict": verdict,
        "scores": scores,
    }


if __name__ == "__main__":
    raise SystemExit(main())
