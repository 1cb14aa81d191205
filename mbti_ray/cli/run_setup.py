"""What train and tune do first: read the config, choose the run folder, tokenize the data.

Nothing heavy is imported before the arguments, the source and the encoder are known to be there.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mbti_ray.cli.command import check_terminated, split_base
from mbti_ray.cli.progress import print_opening, progress_bar
from mbti_ray.cli.tables import print_bad_rows, print_line, print_warning
from mbti_ray.config import RunConfig, apply_overrides, config_from_dict
from mbti_ray.config.resume import load_resumed
from mbti_ray.data.processes import ProcessMap
from mbti_ray.errors import ConfigError
from mbti_ray.runs.lookup import cache_folder, locked_run_folder
from mbti_ray.runs.run_folder import Existing, RunFolder
from mbti_ray.storage.local_cache import local_file

if TYPE_CHECKING:
    from mbti_ray.data.dataset import Dataset

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True)
class RunSetup(Generic[Config]):
    """A run or study that can start; nothing is written to its folder before `begin`."""

    config: Config
    folder: RunFolder
    data: "Dataset"
    folds: list["Dataset"]
    existing: Existing

    def begin(self) -> None:
        check_terminated()
        self.folder.begin(self.config, self.existing)
        self.folder.write_bad_rows(self.data.info.as_dict()["bad"])


@contextmanager
def set_up_run(
    options: argparse.Namespace,
    *,
    load: Callable[[str | None, Sequence[str]], Config],
    map_batches: Callable[[], ProcessMap],
    name_prefix: str = "",
) -> Iterator[RunSetup[Config]]:
    """The config, data and checked-out folder of what is on the command line.

    A run that was given no name has that of its preset or file, after `name_prefix`. The data is
    prepared by the `MapBatches` that `map_batches` makes.
    """
    base, overrides = split_base(options.items)
    file = local_file(base)
    config = load(file, overrides)
    check_inputs(config)
    existing: Existing = options.existing
    default = name_prefix + Path(base or "quick").stem
    with (
        locked_run_folder(config, default_name=default, existing=existing) as chosen,
        chosen.checked_out() as folder,
    ):
        if existing == "resume":
            config = load_resumed(load, folder.config, file, overrides)

        print_opening()

        from mbti_ray.data.dataset import prepare_dataset, prepare_folds, require_both_poles

        cache = cache_folder(config.storage)
        reading = progress_bar(f"reading {config.data.source}", None)
        with reading as advance, map_batches() as mapped:
            data = prepare_dataset(config, cache, advance=advance, map_batches=mapped)
            require_both_poles(data)
            folds = prepare_folds(config, cache, map_batches=mapped)
        skipped = folder.location / folder.bad_rows.name
        bad = data.info.as_dict()["bad"]
        print_bad_rows(config.data.source, bad, len(bad), listed_in=skipped)
        for note in data.info.notes:
            print_line(f"{config.data.source}: {note}")
        for warning in data.info.warnings:
            print_warning(f"{config.data.source}: {warning}")
        yield RunSetup(config, folder, data, folds, existing)


def check_rows(
    trained: Mapping[str, Any], overrides: Sequence[str], *, output: Path | None = None
) -> None:
    """As `check_inputs`, for the rows that a bundle is to be scored on; takes its config.

    ConfigError where `output` would replace them.
    """
    from mbti_ray.data.sources import check_labeled

    of_data = [item for item in overrides if item.startswith("data.")]
    keys = [item.partition("=")[0] for item in of_data]
    data = apply_overrides(config_from_dict(trained), of_data, allowed=keys).data
    check_labeled(data)
    if output is not None and output.resolve() == Path(data.source).expanduser().resolve():
        raise ConfigError(f"command line: --output {output} is the input; name another")


def check_inputs(config: RunConfig) -> None:
    """Refuse a source or an encoder that is not there, before anything heavy is imported."""
    from mbti_ray.data.encoder_files import TINY, locate_encoder
    from mbti_ray.data.sources import check_labeled

    check_labeled(config.data)
    if config.model.encoder != TINY:
        locate_encoder(config.model.encoder)
