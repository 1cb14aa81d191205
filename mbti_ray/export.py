"""`python -m mbti_ray.export`: a bundle's graphs for ONNX Runtime, and what they score."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.progress import progress_bar
from mbti_ray.cli.tables import Result, console, print_pairs
from mbti_ray.config import load_run
from mbti_ray.runs.lookup import locate_bundle
from mbti_ray.runs.run_folder import open_run

_SHOWN = ("acc_mean", "acc_total", "brier")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "export",
        "Write a bundle's graph for ONNX Runtime, in float32 and with int8 weights, and what each\n"
        "scores on labelled rows. serve.runtime=onnx or onnx-int8 then takes it.",
        items="BUNDLE (a bundle, run or study, by folder or URL; default: the newest), "
        "data.source=FILE",
    )
    return run_command(parser, _export, argv)


def _export(options: argparse.Namespace) -> Result:
    place, overrides = split_base(options.items)
    home = locate_bundle(place, load_run(None, overrides).storage)
    # Not the copy in this user's cache, which others may be reading.
    with open_run(home) as folder:
        made = _export_in(folder.path, overrides)
        folder.push()
    return {"bundle": str(home), "runtimes": made}


def _export_in(folder: Path, overrides: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """Export the bundle of a folder; what each runtime is, as bundle.json has it."""
    from mbti_ray.inference.bundle import load_manifest, write_runtimes
    from mbti_ray.inference.evaluation import load_evaluation_data, score_runtimes
    from mbti_ray.inference.predictor import compute_golden_logits
    from mbti_ray.inference.runtimes import RuntimeKind
    from mbti_ray.inference.runtimes.onnx_export import export_onnx

    # First, so that nothing is written where there is nothing to measure it on.
    data = load_evaluation_data(folder, overrides)
    texts = [g.text for g in load_manifest(folder).golden]
    made = export_onnx(folder, lambda bundle, kind: compute_golden_logits(bundle, texts, kind))
    kinds: tuple[RuntimeKind, ...] = ("torch", *made)
    with progress_bar("rows", len(kinds) * len(data.examples)) as advance:
        scores = score_runtimes(folder, data, kinds, advance)
    for kind, facts in made.items():
        facts["scores"] = _beside(scores[kind], scores["torch"], data.description)
    write_runtimes(folder, made)
    _show(scores, data.description)
    return made


def _beside(
    scores: dict[str, float], torch_scores: dict[str, float], description: str
) -> dict[str, Any]:
    """What a runtime scores, and how much less that is than torch on the same rows."""
    return {
        "data": description,
        "rows": scores["rows"],
        **{name: scores[name] for name in _SHOWN},
        "gained": {name: scores[name] - torch_scores[name] for name in _SHOWN},
    }


def _show(scores: dict[Any, dict[str, float]], description: str) -> None:
    pairs = [("rows", description)]
    for kind, found in scores.items():
        figures = ", ".join(f"{name} {found[name]:.4f}" for name in _SHOWN)
        pairs.append((kind, figures))
    print_pairs(pairs)
    console.print("serve.runtime=onnx or serve.runtime=onnx-int8 takes them")


if __name__ == "__main__":
    raise SystemExit(main())
