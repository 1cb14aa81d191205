"""`python -m mbti_ray.export`: a bundle for ONNX Runtime or for transformers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbti_ray.cli.command import build_parser, run_command, split_base
from mbti_ray.cli.progress import print_opening, progress_bar
from mbti_ray.cli.run_setup import check_rows
from mbti_ray.cli.tables import Result, print_commands, print_line, print_pairs
from mbti_ray.config import RunConfig, apply_overrides, load_run
from mbti_ray.errors import BundleError, ConfigError
from mbti_ray.runs.lookup import fetch_bundle, locate_bundle, require_outside_bundles, run_of
from mbti_ray.runs.run_folder import open_run
from mbti_ray.runs.run_lock import run_lock

_SHOWN = ("acc_mean", "acc_total", "brier")


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(
        "export",
        "Export a bundle to ONNX, in float32 and with int8 weights, and score both on labeled "
        "rows. Use them with serve.runtime=onnx or serve.runtime=onnx-int8.\n\n"
        "With --to hf: a folder that transformers loads, and its card as README.md.",
        items="BUNDLE (a bundle, run or study, by folder or URL; default: the newest), "
        "data.source=FILE",
        examples=("runs/mine", "runs/mine --to hf letters --license apache-2.0"),
    )
    parser.add_argument(
        "--to", nargs=2, metavar=("hf", "FOLDER"), help="write a folder for transformers instead"
    )
    parser.add_argument("--license", metavar="ID", help="with --to hf: of the model, for the card")
    parser.add_argument("--language", metavar="CODE", help="with --to hf: of the texts, as en")
    return run_command(parser, _export, argv)


def _export(options: argparse.Namespace) -> Result:
    from mbti_ray.inference.manifest import load_manifest

    place, overrides = split_base(options.items)
    if options.to:
        return _export_for_transformers(options, place, overrides)
    if options.license or options.language:
        raise ConfigError("command line: --license and --language go with --to hf FOLDER")
    home = locate_bundle(place, load_run(None, overrides).storage)
    with run_lock(run_of(home) or home):
        check_rows(load_manifest(fetch_bundle(home)).config, overrides)
        print_opening()
        # Not in this user's cache, where other processes may be reading the bundle.
        with open_run(home) as folder:
            exports = _export_and_score(folder.path, overrides)
            folder.push()
    return {"bundle": str(home), "runtimes": exports}


def _export_for_transformers(
    options: argparse.Namespace, place: str | None, overrides: Sequence[str]
) -> Result:
    from mbti_ray.inference.manifest import load_manifest

    form, target = options.to
    if form != "hf":
        raise ConfigError(f"command line: --to {form}; allowed: hf")
    folder = Path(target)
    require_outside_bundles(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{target}: is not empty; name a new folder, or delete it first")
    config = apply_overrides(RunConfig(), overrides, allowed=("storage",))
    bundle = locate_bundle(place, config.storage)
    model = load_manifest(fetch_bundle(bundle)).model
    for key, allowed in (("reader", "windows"), ("truncation", "head")):
        if (value := getattr(model, key)) != allowed:
            raise BundleError(
                f"{bundle}: transformers has nothing for model.{key}={value}; allowed: {allowed}"
            )
    print_opening()

    from mbti_ray.inference.transformers_export import export_transformers

    exported = export_transformers(
        fetch_bundle(bundle), folder, license_id=options.license, language=options.language
    )
    gap = f"golden texts differ by at most {exported['gap']:.1g} in probability"
    print_pairs([("folder", target), ("class", exported["class"]), ("checked", gap)])
    trusted = ", trust_remote_code=True" if exported["has_code"] else ""
    print_commands({"load": f'transformers.pipeline("text-classification", "{target}"{trusted})'})
    return {"bundle": str(bundle), "folder": target, **exported}


def _export_and_score(folder: Path, overrides: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """Export the bundle in a folder; returns the entries of bundle.json with their scores."""
    from mbti_ray.inference.bundle import write_runtimes
    from mbti_ray.inference.evaluation import load_evaluation_data, score_runtimes
    from mbti_ray.inference.runtimes import RuntimeKind
    from mbti_ray.inference.runtimes.onnx_export import export_onnx

    # Loaded first, so that nothing is written if there are no rows to score.
    data = load_evaluation_data(folder, overrides)
    exports = export_onnx(folder)
    kinds: tuple[RuntimeKind, ...] = ("torch", *exports)
    with progress_bar("rows", len(kinds) * len(data.examples)) as advance:
        scores = score_runtimes(folder, data, kinds, advance)
    scored = {
        kind: export.model_copy(
            update={"scores": _compare(scores[kind], scores["torch"], data.description)}
        )
        for kind, export in exports.items()
    }
    write_runtimes(folder, scored)
    pairs = [("rows", data.description)]
    for name, values in scores.items():
        pairs.append((name, ", ".join(f"{metric} {values[metric]:.4f}" for metric in _SHOWN)))
    print_pairs(pairs)
    print_line("use them with serve.runtime=onnx or serve.runtime=onnx-int8")
    return {kind: export.model_dump() for kind, export in scored.items()}


def _compare(
    scores: dict[str, float], torch_scores: dict[str, float], description: str
) -> dict[str, Any]:
    """The scores of a runtime, and their difference from torch on the same rows."""
    return {
        "data": description,
        "rows": scores["rows"],
        **{name: scores[name] for name in _SHOWN},
        "gained": {name: scores[name] - torch_scores[name] for name in _SHOWN},
    }


if __name__ == "__main__":
    raise SystemExit(main())
