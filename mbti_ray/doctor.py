"""`python -m mbti_ray.doctor`: whether a run or study can start, before it takes resources."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.tables import Result, console
from mbti_ray.config import PRESETS, load_run_or_study
from mbti_ray.runs.lookup import storage_folder

if TYPE_CHECKING:
    from mbti_ray.checks.verdict import Verdict

_COLORS = {"ok": "green", "warning": "yellow", "wrong": "red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exits with 2 where a check finds something wrong."""
    parser = build_parser(
        "doctor",
        "Check whether a run or study can run: versions, token, storage, disk space, resources, "
        "GPUs, encoder, ports, clocks. Without --cluster: this machine only, and no Ray starts.",
        items=f"a preset ({', '.join(PRESETS)}; default: quick), FILE.yaml or STUDY.yaml, then "
        "key=value",
        examples=("minilm data.source=my.csv", "tune_configs/minilm.yaml --cluster"),
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="check every node of the running Ray (RAY_ADDRESS, or the one on this machine); if "
        "there is none, a local one is started",
    )
    return run_command(parser, _doctor, argv, exit_code=lambda result: 2 if result["wrong"] else 0)


def _doctor(options: argparse.Namespace) -> Result:
    config = load_run_or_study(*split_base(options.items))
    storage_folder(config.storage)

    from mbti_ray.data.sources import check_labeled

    check_labeled(config.data)
    started = time.monotonic()

    from mbti_ray.on_ray.cluster.preflight import check_cluster, check_this_machine

    verdicts = check_cluster(config) if options.cluster else check_this_machine(config)
    seconds = time.monotonic() - started
    counts = {state: sum(v.state == state for v in verdicts) for state in _COLORS}
    _print(verdicts)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"{summary}, in {seconds:.1f} s")
    return {
        "wrong": counts["wrong"],
        "warnings": counts["warning"],
        "seconds": round(seconds, 1),
        "checks": [
            {"check": v.check, "state": v.state, "found": v.message, "remedy": v.remedy}
            for v in verdicts
        ],
    }


def _print(verdicts: "Sequence[Verdict]") -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "to change"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        color = _COLORS[verdict.state]
        cells = (verdict.check, verdict.message, verdict.remedy)
        table.add_row(Text(verdict.state, style=color), *cells)
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
