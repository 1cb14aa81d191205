"""Scoring a bundle on labelled rows: which rows may be scored, and what comes out.

The rows go through the predictor, so what is scored is what is served; and once more with the
masking turned round, so that what type words are worth stands beside it. Knows nothing of Ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mbti_ray.config import RunConfig, apply_overrides, config_from_dict
from mbti_ray.data.examples import (
    Example,
    build_examples,
    person_kind,
    person_numbers,
    resolve_split_by,
    split_examples,
)
from mbti_ray.data.progress import ProgressCallback, no_progress
from mbti_ray.data.sources import read_source
from mbti_ray.data.text import preprocess_text
from mbti_ray.errors import DataError
from mbti_ray.inference.bundle import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import RuntimeKind
from mbti_ray.scores.beside import Training, baselines_beside
from mbti_ray.scores.counts import Counts, Scores
from mbti_ray.scores.scorecard import Scored, build_scorecard
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of

_ROWS_AT_ONCE = 256
# What `evaluate` may change of the config that a bundle carries.
_OVERRIDES = (
    "storage",
    "data.source",
    "data.max_bad_share",
    "scoring.resamples",
    "scoring.baselines",
)
_PLACE_OF = {mbti_type: place for place, mbti_type in enumerate(TYPES)}

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class EvaluationData:
    """Rows to score.

    Attributes:
        turned: The texts of each example with masking turned round: as written where the bundle
            masks, masked where it does not.
        training: What the bundle was trained on; None for other data.
        config: The bundle's, with what was overridden.
        person: What a person of these rows is: author or user.
        facts: What bundle.json says of the data, where these rows are a split of it.
        source: What they were read from, as `read_source` takes it.
        split: all, or the part of the data that the rows are.
        description: What was read, for people.
    """

    examples: list[Example]
    inverted_texts: Texts
    training: list[Example] | None
    config: RunConfig
    person: str
    facts: dict[str, Any] | None
    source: str
    split: str
    description: str

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """0/1 labels [R, 4] in the order E, N, T, J."""
        labels = [labels_of(e.mbti_type) for e in self.examples]
        return np.array(labels, np.uint8).reshape(-1, len(POSITIVE_POLES))


@dataclass(frozen=True)
class EvaluationResult:
    """What came of scoring a bundle.

    Attributes:
        scores: As served.
        scorecards: By how the texts were read, masked and unmasked; first as served.
        rows: What each row was given: number, post, true, type, E, N, T, J.
    """

    bundle_id: str
    scores: Scores
    scorecards: dict[str, dict[str, Any]]
    rows: pa.Table


def load_evaluation_data(
    bundle: Path, overrides: Sequence[str], *, split: str = "auto"
) -> EvaluationData:
    """The rows of `data.source` that a bundle is to be scored on.

    A bundle is not scored on rows that it was trained on unless that is asked for: on the very
    data that it comes from, `auto` is its test split.

    Raises:
        ConfigError: An override that evaluation does not have.
        DataError: The source cannot be read, or a split is asked of data that it does not come
            from.
    """
    manifest = load_manifest(bundle)
    config = apply_overrides(config_from_dict(manifest.config), overrides, allowed=_OVERRIDES)
    source = read_source(config.data.source, max_bad_share=config.data.max_bad_share)
    own = source.fingerprint == manifest.data["fingerprint"]
    if split == "auto":
        split = "test" if own else "all"
    split_by = resolve_split_by(config, source) if not own else manifest.data["split_by"]
    examples, training = build_examples(config, source.rows, split_by), None
    if split != "all" and not own:
        raise DataError(
            f"{source.name}: is not what the bundle was trained on (fingerprint "
            f"{source.fingerprint}, not {manifest.data['fingerprint']}), so it has no "
            f'"{split}" split; allowed: --split all'
        )
    if split != "all":
        members = split_examples(config, examples)
        examples, training = members[split], members["train"]
    what = "what it was trained on" if own else "other data than it was trained on"
    description = f"{source.name}: {len(examples):,} {config.data.unit}s, {split} of {what}"
    if source.bad:
        description += f"; {len(source.bad)} bad rows left out"
    posts = {row.number: row.posts for row in source.rows}
    turned = [_turned(config, e, posts[e.number]) for e in examples]
    person = person_kind(source.rows)
    return EvaluationData(
        examples=examples,
        inverted_texts=turned,
        training=training,
        config=config,
        person=person,
        facts=manifest.data if training is not None else None,
        source=config.data.source,
        split=split,
        description=description,
    )


def _turned(config: RunConfig, example: Example, posts: Sequence[str]) -> list[str]:
    mine = posts if example.post < 0 else posts[example.post : example.post + 1]
    data = config.data
    return [preprocess_text(post, mask=not data.mask, also=data.mask_also) for post in mine]


def evaluate_bundle(
    bundle: Path, labelled: EvaluationData, advance: ProgressCallback
) -> EvaluationResult:
    """Score a bundle on labelled rows.

    Args:
        advance: Called with the number of rows done since the last call, and a note.
    """
    predictor = Predictor.load(bundle, device="cuda" if torch.cuda.is_available() else "cpu")
    served = [e.texts for e in labelled.examples]
    logits = _logits(predictor, served, advance)
    other = logits.clone()
    # Most rows read the same either way.
    changed = [
        i for i, e in enumerate(labelled.examples) if [*e.texts] != [*labelled.inverted_texts[i]]
    ]
    if changed:
        turned = [labelled.inverted_texts[i] for i in changed]
        other[changed] = _logits(predictor, turned, no_progress)
    counts = Counts.of(logits, torch.from_numpy(labelled.labels), predictor.thresholds)
    is_masked = labelled.config.data.mask
    first, second = ("masked", "unmasked") if is_masked else ("unmasked", "masked")
    scorecards = {
        first: _scorecard(predictor, labelled, logits, is_masked=is_masked, is_served=True),
        second: _scorecard(predictor, labelled, other, is_masked=not is_masked, is_served=False),
    }
    rows = _table(labelled.examples, predictor, logits)
    return EvaluationResult(predictor.bundle_id, counts.scores(), scorecards, rows)


def score_runtimes(
    bundle: Path,
    labelled: EvaluationData,
    kinds: Sequence[RuntimeKind],
    advance: ProgressCallback,
) -> dict[RuntimeKind, Scores]:
    """What each runtime of a bundle scores on the same rows.

    Args:
        advance: Called with the number of rows done since the last call, and the runtime.
    """
    texts = [e.texts for e in labelled.examples]
    scores: dict[RuntimeKind, Scores] = {}
    for kind in kinds:
        predictor = Predictor.load(bundle, runtime=kind)
        logits = _logits(predictor, texts, lambda done, _, kind=kind: advance(done, kind))  # type: ignore[misc]
        labels = torch.from_numpy(labelled.labels)
        scores[kind] = Counts.of(logits, labels, predictor.thresholds).scores()
    return scores


def _logits(predictor: Predictor, texts: Texts, advance: ProgressCallback) -> torch.Tensor:
    """Calibrated row logits [R, 4] on the CPU."""
    parts = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        part = texts[start : start + _ROWS_AT_ONCE]
        logits = predictor.predict_logits_of_preprocessed(
            part, whole=predictor.unit == "user"
        ).values
        parts.append(predictor.calibrate(logits))
        advance(len(part), "")
    return torch.cat(parts)


def _scorecard(
    predictor: Predictor,
    labelled: EvaluationData,
    logits: torch.Tensor,
    *,
    is_masked: bool,
    is_served: bool,
) -> dict[str, Any]:
    examples = labelled.examples
    beside, missing = baselines_beside(
        labelled.labels,
        np.array([_PLACE_OF.get(e.mentioned or "", -1) for e in examples], np.int8),
        is_masked=is_masked,
        training=_training(labelled, is_served=is_served),
    )
    numbers = person_numbers(examples)
    scored = Scored(
        torch.sigmoid(logits.double()).numpy(),
        labelled.labels,
        predictor.thresholds.double().numpy(),
        np.array([numbers[e.person] for e in examples]),
        predictor.abstain,
    )
    return build_scorecard(
        scored,
        beside,
        resamples=labelled.config.scoring.resamples,
        person=labelled.person,
        missing=missing,
        seed=labelled.config.seed,
    )


def _training(labelled: EvaluationData, *, is_served: bool) -> Callable[[], Training] | str:
    """What TF-IDF learns from, when it is asked, or why there is nothing."""
    training = labelled.training
    if not labelled.config.scoring.baselines:
        return "scoring.baselines=false"
    if training is None:
        return "needs the split of the data that the bundle was trained on"
    if not is_served:
        return "stands beside what is served"
    return lambda: Training(
        ["\n".join(e.texts) for e in training],
        np.array([labels_of(e.mbti_type) for e in training], np.uint8),
        ["\n".join(e.texts) for e in labelled.examples],
    )


def _table(rows: Sequence[Example], predictor: Predictor, logits: torch.Tensor) -> pa.Table:
    probabilities = torch.sigmoid(logits)
    columns: dict[str, Any] = {
        "number": [e.number for e in rows],
        "post": [e.post for e in rows],
        "true": [e.mbti_type for e in rows],
        "type": predictor.decide_types(probabilities),
    }
    for k, pole in enumerate(POSITIVE_POLES):
        columns[pole] = probabilities[:, k].tolist()
    return pa.table(columns)
