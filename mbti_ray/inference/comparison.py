"""Comparing two bundles on the same labeled rows, which neither has seen in training.

The texts go through each bundle's predictor, with its own masking and decision rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mbti_ray.config import RunConfig, apply_overrides, config_from_dict, override
from mbti_ray.data.examples import Example, build_examples
from mbti_ray.data.processes import ProgressCallback, no_progress
from mbti_ray.data.users import load_users
from mbti_ray.errors import BundleError, ConfigError, DataError
from mbti_ray.inference import evaluation
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.scores import comparison
from mbti_ray.scores.comparison import Comparison, compare, describe_comparison

# What a row was to the bundles that saw it.
_SEEN = ("train", "val")


@dataclass(frozen=True)
class ComparedRows:
    """Rows that neither bundle was trained or validated on."""

    examples: Sequence[Example]
    config: RunConfig
    description: str


def load_compared_rows(first: Path, second: Path, overrides: Sequence[str]) -> ComparedRows:
    """The rows of `data.source`, by default that of the first bundle, to compare both bundles on.

    Raises ConfigError if they do not read the same unit, DataError if one has seen all rows.
    """
    manifests = [load_manifest(bundle) for bundle in (first, second)]
    if manifests[0].unit != manifests[1].unit:
        units = " and ".join(f"{m.id} reads {m.unit}s" for m in manifests)
        raise ConfigError(f"{units} (data.unit): compare bundles of one unit")
    trained, allowed = [config_from_dict(m.config) for m in manifests], evaluation.OVERRIDES
    configs = [apply_overrides(config, overrides, allowed=allowed) for config in trained]
    origins: list[list[str]] = []
    for bundle, manifest, own in zip((first, second), manifests, configs, strict=True):
        mask = {"data.mask": own.data.mask, "data.mask_also": own.data.mask_also}
        masked = override(configs[0], mask)
        source = load_users(masked.data)
        examples = [*build_examples(masked, source.rows).read()]
        origins.append(evaluation.find_origins(bundle, manifest, examples))
    unseen = [
        k for k, of_both in enumerate(zip(*origins, strict=True)) if not {*of_both} & {*_SEEN}
    ]
    left_out = len(examples) - len(unseen)
    if not unseen:
        raise DataError(
            f"{source.name}: one of the bundles was trained or validated on each of the "
            f"{left_out:,} rows; compare them on people who are new to both"
        )
    description = f"{source.name}: {len(unseen):,} {configs[0].data.unit}s"
    if left_out:
        description += f"; {left_out:,} left out that one of the bundles has seen"
    if any("unknown" in of_one for of_one in origins):
        description += "; one of the bundles may have seen some, its version did not record them"
    chosen = [examples[k] for k in unseen]
    return ComparedRows(chosen, configs[0], description)


def compare_bundles(
    first: Path, second: Path, rows: ComparedRows, advance: ProgressCallback = no_progress
) -> tuple[Comparison, pa.Table]:
    """Compare two bundles; also returns what each predicts for each row."""
    columns, scored = evaluation.row_columns(rows.examples), []
    for name, bundle in (("first", first), ("second", second)):
        predicted, types = evaluation.predict_examples(
            evaluation.load_predictor(bundle, rows.config),
            rows.examples,
            [e.posts for e in rows.examples],
            advance,
            name,
            is_preprocessed=False,
        )
        scored.append(predicted.scored())
        columns |= evaluation.prediction_columns(types, predicted, f"_{name}")
    found = compare(*scored, resamples=rows.config.scoring.resamples, seed=rows.config.seed)
    return found, pa.table(columns)


def require_no_worse(served: Path, candidate: Path, source: str) -> str:
    """The verdict on a candidate against the bundle that is served, on the rows of a file.

    Raises BundleError if the candidate is worse by more than chance explains, DataError for people
    too few to show that it were.
    """
    rows = load_compared_rows(served, candidate, [f"data.source={source}", "scoring.resamples=0"])
    found, _ = compare_bundles(served, candidate, rows)
    first, second = (load_manifest(bundle).id for bundle in (served, candidate))
    verdict = describe_comparison(found, first, second)
    if found["persons"] < comparison.MIN_PERSONS:
        raise DataError(f"{source}: {verdict}; still serving {first}")
    if found["worse_in"]:
        measures = ", ".join(
            f"{comparison.NAMES[name]} {found['differences'][name]['value']:+.3f} "
            f"(one-sided p {found['differences'][name]['p_worse']:.2g})"
            for name in found["worse_in"]
        )
        raise BundleError(
            f"{second} is worse than {first}, which is served, on {found['persons']:,} people of "
            f"{source}: {measures}; still serving {first}"
        )
    return verdict
