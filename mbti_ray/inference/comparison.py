"""Comparing two bundles on the same labeled rows, which neither has seen in training.

The texts go through each bundle's predictor, with its own masking and decision rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mbti_ray.config import RunConfig, apply_overrides, config_from_dict, override
from mbti_ray.data.examples import Example, build_examples, encode_persons, resolve_split_by
from mbti_ray.data.processes import ProgressCallback, no_progress
from mbti_ray.data.users import load_users
from mbti_ray.errors import BundleError, ConfigError, DataError
from mbti_ray.inference.evaluation import OVERRIDES, find_origins, label_matrix
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.prediction import Prediction
from mbti_ray.inference.predictor import Predictor
from mbti_ray.scores.comparison import MIN_PERSONS, Comparison, compare, describe_comparison
from mbti_ray.scores.scorecard import Scored
from mbti_ray.typology import POSITIVE_POLES

_CHUNK_ROWS = 256
# What a row was to the bundles that saw it.
_SEEN = ("train", "val")


@dataclass(frozen=True)
class ComparedRows:
    """Rows that neither bundle was trained or validated on; `posts` are their raw texts."""

    examples: Sequence[Example]
    posts: Sequence[Sequence[str]]
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
    configs = [
        apply_overrides(config_from_dict(m.config), overrides, allowed=OVERRIDES) for m in manifests
    ]
    source = load_users(configs[0].data)
    split_by = resolve_split_by(configs[0], source)
    origins: list[list[str]] = []
    for bundle, manifest, own in zip((first, second), manifests, configs, strict=True):
        mask = {"data.mask": own.data.mask, "data.mask_also": own.data.mask_also}
        examples = [*build_examples(override(configs[0], mask), source.rows, split_by)]
        origins.append(find_origins(bundle, manifest, examples))
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
    posts = {row.number: row.posts for row in source.rows}
    chosen = [examples[k] for k in unseen]
    texts = [example.own_posts(posts) for example in chosen]
    return ComparedRows(chosen, texts, configs[0], description)


def compare_bundles(
    first: Path, second: Path, rows: ComparedRows, advance: ProgressCallback = no_progress
) -> tuple[Comparison, pa.Table]:
    """Compare two bundles; also returns what each predicts for each row."""
    persons = encode_persons(e.person for e in rows.examples)
    labels = label_matrix(rows.examples)
    columns = {
        "number": [e.number for e in rows.examples],
        "post": [e.post for e in rows.examples],
        "true": [e.mbti_type for e in rows.examples],
    }
    scored = []
    for name, bundle in (("first", first), ("second", second)):
        predictions = _predict(bundle, rows.posts, advance, name)
        probabilities = np.array([[*p.probabilities.values()] for p in predictions])
        scored.append(
            Scored(probabilities, labels, np.array(load_manifest(bundle).thresholds), persons)
        )
        columns[f"type_{name}"] = [p.type for p in predictions]
        for k, pole in enumerate(POSITIVE_POLES):
            columns[f"{pole}_{name}"] = probabilities[:, k].tolist()
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
    if found["persons"] < MIN_PERSONS:
        raise DataError(f"{source}: {verdict}; still serving {first}")
    if found["worse_in"]:
        measures = ", ".join(
            f"{name} {found['differences'][name]['value']:+.3f} "
            f"(one-sided p {found['differences'][name]['p_worse']:.2g})"
            for name in found["worse_in"]
        )
        raise BundleError(
            f"{second} is worse than {first}, which is served, on {found['persons']:,} people of "
            f"{source}: {measures}; still serving {first}"
        )
    return verdict


def _predict(
    bundle: Path, posts: Sequence[Sequence[str]], advance: ProgressCallback, note: str
) -> list[Prediction]:
    predictor, predictions = Predictor.load(bundle), []
    for start in range(0, len(posts), _CHUNK_ROWS):
        part = posts[start : start + _CHUNK_ROWS]
        predictions += predictor.predict(part, whole=predictor.unit == "user")
        advance(len(part), note)
    return predictions
