"""`mbti-ray config`: every setting with its value, what it means and what is allowed."""

import argparse
import json
from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from operator import getitem

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.tables import Result, print_heading, print_line
from mbti_ray.config import PRESETS, load_run_or_study
from mbti_ray.config.settings import settings_of


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "config",
        "Show every setting: its key, value, meaning and allowed values.",
        prog="mbti-ray ",
        items=f"a preset ({', '.join(PRESETS)}; default: quick), FILE.yaml or STUDY.yaml, then "
        "key=value",
        examples=("quick", "minilm fit.epochs=3", "tune_configs/quick.yaml --json"),
    )
    return run_command(parser, _show, argv)


def _show(options: argparse.Namespace) -> Result:
    config = load_run_or_study(*split_base(options.items))
    plain = config.model_dump(mode="json")
    settings = settings_of(type(config))
    # Values as YAML and the command line take them.
    values = {s.key: reduce(getitem, s.key.split("."), plain) for s in settings}
    for section, group in groupby(settings, lambda s: s.key.rpartition(".")[0]):
        print_heading(section or "top level")
        for s in group:
            value = json.dumps(values[s.key])
            default = "" if value == s.default else f" (by default {s.default})"
            meaning = f"{s.meaning}; " if s.meaning else ""
            print_line(f"{s.key}={value}{default}  {meaning}allowed: {s.allowed}", indent=4)
    return {
        s.key: {
            "value": values[s.key],
            "default": json.loads(s.default),
            "allowed": s.allowed,
            "meaning": s.meaning,
        }
        for s in settings
    }
