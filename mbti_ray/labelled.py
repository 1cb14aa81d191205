"""Scoring a bundle on labelled rows: which rows may be scored, and what comes out.

The rows go through the predictor, so what is scored is what is served. Knows nothing of Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from mbti_ray.bundle import read_manifest
from mbti_ray.config import config_of, load_overrides
from mbti_ray.data.prepare import Example, examples_of, resolve_split_by, split_examples
from mbti_ray.data.sources import read_source
from mbti_ray.errors import DataError
from mbti_ray.predictor import Predictor
from mbti_ray.scores.counts import Counts, Scores
from mbti_ray.typology import POSITIVE_POLES, labels_of

_ROWS_AT_ONCE = 256
# What `evaluate` may change of the config that a bundle carries.
_OVERRIDES = ("storage", "data.source", "data.max_bad_share")


@dataclass(frozen=True)
class Labelled:
    """Rows to score.

    Attributes:
        source: What they were read from, as `read_source` takes it.
        split: all, or the part of the data that the rows are.
        description: What was read, for people.
    """

    examples: list[Example]
    source: str
    split: str
    description: str


@dataclass(frozen=True)
class Evaluation:
    """Scores, and a table of what each row was given: number, post, true, type, E, N, T, J."""

    bundle_id: str
    scores: Scores
    rows: pa.Table


def read_labelled(bundle: Path, overrides: Sequence[str], *, split: str = "auto") -> Labelled:
    """The rows of `data.source` that a bundle is to be scored on.

    A bundle is not scored on rows that it was trained on unless that is asked for: on the very
    data that it comes from, `auto` is its test split.

    Raises:
        ConfigError: An override that evaluation does not have.
        DataError: The source cannot be read, or a split is asked of data that it does not come
            from.
    """
    manifest = read_manifest(bundle)
    config = load_overrides(config_of(manifest.config), overrides, allowed=_OVERRIDES)
    source = read_source(config.data.source, max_bad_share=config.data.max_bad_share)
    own = source.fingerprint == manifest.data["fingerprint"]
    if split == "auto":
        split = "test" if own else "all"
    split_by = resolve_split_by(config, source) if not own else manifest.data["split_by"]
    examples = examples_of(config, source.rows, split_by)
    if split != "all":
        if not own:
            raise DataError(
                f"{source.name}: is not what the bundle was trained on (fingerprint "
                f"{source.fingerprint}, not {manifest.data['fingerprint']}), so it has no "
                f'"{split}" split; allowed: --split all'
            )
        examples = split_examples(config, examples)[split]
    what = "what it was trained on" if own else "other data than it was trained on"
    description = f"{source.name}: {len(examples):,} {config.data.unit}s, {split} of {what}"
    if source.bad:
        description += f"; {len(source.bad)} bad rows left out"
    return Labelled(examples, config.data.source, split, description)


def evaluate_bundle(
    bundle: Path, labelled: Labelled, advance: Callable[[int, str], None]
) -> Evaluation:
    """Score a bundle on labelled rows.

    Args:
        advance: Told the number of rows done since the last time, and a note.
    """
    predictor = Predictor.load(bundle, device="cuda" if torch.cuda.is_available() else "cpu")
    whole = predictor.unit == "user"
    counts, tables = Counts.none(), []
    for start in range(0, len(labelled.examples), _ROWS_AT_ONCE):
        part = labelled.examples[start : start + _ROWS_AT_ONCE]
        logits = predictor.row_logits([e.texts for e in part], whole=whole).values
        logits = predictor.calibrated(logits)
        labels = torch.tensor([labels_of(e.mbti_type) for e in part])
        counts = counts + Counts.of(logits, labels, predictor.thresholds)
        tables.append(_table(part, predictor, logits))
        advance(len(part), "")
    return Evaluation(predictor.bundle_id, counts.scores(), pa.concat_tables(tables))


def _table(part: Sequence[Example], predictor: Predictor, logits: torch.Tensor) -> pa.Table:
    probabilities = torch.sigmoid(logits)
    columns: dict[str, Any] = {
        "number": [e.number for e in part],
        "post": [e.post for e in part],
        "true": [e.mbti_type for e in part],
        "type": predictor.types(probabilities),
    }
    for k, pole in enumerate(POSITIVE_POLES):
        columns[pole] = probabilities[:, k].tolist()
    return pa.table(columns)
