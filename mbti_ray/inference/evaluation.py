"""Evaluation of a bundle on labeled rows: which rows to score, and their scores.

The rows go through the predictor, so the scores are those of the service. They are scored a second
time with masking inverted, which shows how much the model relies on type words. Must not know Ray.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mbti_ray.config import RunConfig, apply_overrides, config_from_dict
from mbti_ray.config.load import BASE_RATES
from mbti_ray.data.examples import Example, build_examples, encode_persons
from mbti_ray.data.processes import ProgressCallback, no_progress
from mbti_ray.data.split import SPLITS
from mbti_ray.data.text import preprocess_text
from mbti_ray.data.users import load_users
from mbti_ray.errors import DataError
from mbti_ray.inference.bundle import SEEN, hash_posts, hashes_of_row, load_row_hashes
from mbti_ray.inference.manifest import Manifest, load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import RuntimeKind
from mbti_ray.inference.split_predictions import SplitPredictions, build_card, learned_baseline
from mbti_ray.model.tfidf import TfidfModel, fit_tfidf
from mbti_ray.scores.baselines import Baseline
from mbti_ray.scores.metrics import Scores
from mbti_ray.scores.scorecard import Mistake, Scorecard, find_mistakes
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of

# Rows between two reports of progress; on a GPU enough for full passes of short posts.
_CHUNK_ROWS = {"cpu": 256, "cuda": 4096}
# The keys of the bundle's config that `evaluate` may override.
OVERRIDES = (
    *("storage", "data.source", "data.max_bad_share"),
    *(f"data.columns.{role}" for role in ("text", "type", "author", "id")),
    *("data.separator", "data.shares_of", "data.join_rows", "data.conflicting_types"),
    *("scoring.resamples", "scoring.baselines", "scoring.examples", "scaling.use_gpu"),
    *BASE_RATES,
)
_UNKNOWN = "unknown"
# What the rows of a group were to the bundle.
_MEANING = {
    "train": "seen in training",
    "val": "seen in validation",
    "test": "held out for testing",
    "new": "new to the bundle",
    _UNKNOWN: "perhaps seen in training: the bundle is of a version that did not record its rows",
}

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class EvaluationData:
    """Rows to score.

    Attributes:
        seen: Rows that the bundle was trained or validated on, to be scored apart from `examples`.
        origins: What each of `examples`, then of `seen`, was to the bundle: a split, new, unknown.
        inverted_texts: The texts of each example with masking inverted: unmasked where the bundle
            masks, masked where it does not.
        training: The training split of the bundle; None for other data.
        person: What counts as a person in these rows: author or user.
        facts: The dataset facts of the manifest, if the rows are a split of that dataset.
        split: The split that all rows belong to; otherwise all or unseen.
    """

    examples: list[Example]
    seen: list[Example]
    origins: list[str]
    inverted_texts: Texts
    training: list[Example] | None
    config: RunConfig
    person: str
    facts: dict[str, Any] | None
    split: str
    description: str


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of a bundle on evaluation data.

    Attributes:
        scores, groups: With masking as served, of all rows and of those of each origin.
        scorecards: By masking of the texts, masked and unmasked; the first is as served.
        rows: The prediction for each row: number, post, true, type, E, N, T, J.
        mistakes: As many as `scoring.examples` says.
    """

    bundle_id: str
    scores: Scores
    groups: dict[str, Scores]
    scorecards: dict[str, Scorecard]
    rows: pa.Table
    mistakes: list[Mistake]


def load_evaluation_data(
    bundle: Path, overrides: Sequence[str], *, split: str = "auto"
) -> EvaluationData:
    """The rows of `data.source` to score a bundle on.

    The split `auto` is every row that the bundle was neither trained nor validated on, with the
    rows that it was apart; `all` is every row; train, val and test are those of a split. Raises
    DataError if there are no such rows.
    """
    manifest = load_manifest(bundle)
    config = apply_overrides(config_from_dict(manifest.config), overrides, allowed=OVERRIDES)
    source = load_users(config.data)
    built = build_examples(config, source.rows)
    examples = [*built.read()]
    hashes = load_row_hashes(bundle)
    origins = find_origins(bundle, manifest, examples)
    tagged = list(zip(examples, origins, strict=True))
    chosen = {"auto": ("test", "new", _UNKNOWN), "all": tuple(_MEANING)}.get(split, (split,))
    rows = [(example, origin) for example, origin in tagged if origin in chosen]
    seen = [(e, origin) for e, origin in tagged if split == "auto" and origin not in chosen]
    counts = ", ".join(f"{origins.count(n):,} {m}" for n, m in _MEANING.items() if n in origins)
    if not rows:
        raise DataError(
            f"{source.name}: has no rows for --split {split} ({counts}); allowed: --split all"
        )
    training = [example for example, origin in tagged if origin == "train"]
    has_training = hashes is not None and hashes["train"] <= set[int]().union(
        *(hashes_of_row(e.texts, salt=manifest.id) for e in training)
    )
    description = f"{source.name}: {len(rows):,} {config.data.unit}s scored ({counts})"
    if source.bad:
        description += f"; {len(source.bad)} bad rows left out"
    description += "".join(f"; {note}" for note in source.notes)
    invert = partial(preprocess_text, mask=not config.data.mask, also=config.data.mask_also)
    scored = {origin for _, origin in rows}
    if len(scored) == 1 and scored <= set(SPLITS):
        split = scored.pop()
    else:
        split = "all" if len(rows) == len(examples) else "unseen"
    return EvaluationData(
        examples=[example for example, _ in rows],
        seen=[example for example, _ in seen],
        origins=[name for _, name in (*rows, *seen)],
        inverted_texts=[[*map(invert, example.posts)] for example, _ in rows],
        training=training if has_training else None,
        config=config,
        person=built.rows.person_kind,
        facts=manifest.data if has_training or split in SPLITS else None,
        split=split,
        description=description,
    )


def find_origins(bundle: Path, manifest: Manifest, examples: Sequence[Example]) -> list[str]:
    """What each row was to a bundle: train, val, test, new, or unknown to an old bundle.

    A row of which the bundle has seen at least half of the long posts counts as seen.
    """
    hashes = load_row_hashes(bundle)
    if hashes is None:
        return [_UNKNOWN] * len(examples)

    def origin(texts: Sequence[str]) -> str:
        row = hashes_of_row(texts, salt=manifest.id)
        # A row that stands in several splits counts as seen.
        if found := next((split for split in SPLITS if row & hashes[split]), None):
            return found
        # A person may have written more since.
        posts = hash_posts(texts, salt=manifest.id)
        known = {split: sum(post in hashes[f"{split}_posts"] for post in posts) for split in SEEN}
        return next((s for s, count in known.items() if count and 2 * count >= len(posts)), "new")

    return [origin(example.texts) for example in examples]


def evaluate_bundle(
    bundle: Path, data: EvaluationData, advance: ProgressCallback
) -> EvaluationResult:
    """Score a bundle on labeled rows."""
    predictor = load_predictor(bundle, data.config)
    examples, count = [*data.examples, *data.seen], len(data.examples)
    rows, types = predict_examples(predictor, examples, [e.texts for e in examples], advance)
    origins = np.array(data.origins)
    served = rows.take(np.arange(count))
    inverted = served.logits.copy()
    # Masking changes few rows; the others keep their logits.
    changed = [i for i, e in enumerate(data.examples) if [*e.texts] != [*data.inverted_texts[i]]]
    if changed:
        texts = [data.inverted_texts[i] for i in changed]
        own = [data.examples[i] for i in changed]
        inverted[changed] = predict_examples(predictor, own, texts, no_progress)[0].logits
    is_masked = data.config.data.mask
    first, second = ("masked", "unmasked") if is_masked else ("unmasked", "masked")
    others = replace(served, logits=inverted, tokens=None)
    scorecards = {
        name: build_card(
            data.config,
            each,
            person=data.person,
            is_masked=name == "masked",
            learned=_tfidf(data, is_served=each is served),
        )[0]
        for name, each in ((first, served), (second, others))
    }
    quoted = ["\n".join(e.texts) for e in data.examples]
    return EvaluationResult(
        bundle_id=predictor.bundle_id,
        scores=served.scores(),
        groups={o: rows.take(origins == o).scores() for o in dict.fromkeys(data.origins)},
        scorecards=scorecards,
        rows=pa.table(row_columns(data.examples) | prediction_columns(types[:count], served)),
        mistakes=find_mistakes(served.scored(), quoted, count=data.config.scoring.examples),
    )


def score_runtimes(
    bundle: Path, data: EvaluationData, kinds: Sequence[RuntimeKind], advance: ProgressCallback
) -> dict[RuntimeKind, Scores]:
    """The scores of each runtime of a bundle on the same rows."""
    texts = [e.texts for e in data.examples]
    scores: dict[RuntimeKind, Scores] = {}
    for kind in kinds:
        predictor = Predictor.load(bundle, runtime=kind)
        predicted, _ = predict_examples(predictor, data.examples, texts, advance, kind)
        scores[kind] = predicted.scores()
    return scores


def load_predictor(bundle: Path, config: RunConfig) -> Predictor:
    """A bundle on this machine's GPU, if there is one, for the base rates of a config."""
    use_gpu = torch.cuda.is_available() and config.scaling.use_gpu is not False
    device = "cuda" if use_gpu else "cpu"
    return Predictor.load(bundle, device=device, base_rates=config.serve.base_rates)


def predict_examples(
    predictor: Predictor,
    examples: Sequence[Example],
    texts: Texts,
    advance: ProgressCallback,
    note: str = "",
    *,
    is_preprocessed: bool = True,
) -> tuple[SplitPredictions, list[str]]:
    """What is predicted for examples from their texts, and the types."""
    parts, tokens, types = [], list[int](), list[str]()
    step = _CHUNK_ROWS[predictor.runtime.device.type]
    for start in range(0, len(texts), step):
        part = texts[start : start + step]
        logits = predictor.predict_logits(
            part, whole=predictor.unit == "user", is_preprocessed=is_preprocessed
        )
        parts.append(predictor.calibrate(logits))
        types += predictor.decide_types(torch.sigmoid(parts[-1]), logits.rows)
        tokens += [row.tokens for row in logits.rows]
        advance(len(part), note)
    mentioned = [TYPES.index(e.mentioned) if e.mentioned else -1 for e in examples]
    predictions = SplitPredictions(
        logits=torch.cat(parts).numpy(),
        thresholds=np.tile(predictor.decision.thresholds.numpy(), (len(texts), 1)),
        labels=_label_matrix(examples),
        shares=_share_matrix(examples),
        persons=encode_persons([e.person for e in examples]),
        mentioned=np.array(mentioned, np.int8),
        tokens=np.array(tokens),
        abstain=predictor.decision.abstain,
    )
    return predictions, types


def _label_matrix(examples: Sequence[Example]) -> NDArray[np.uint8]:
    return np.array([labels_of(e.mbti_type) for e in examples], np.uint8).reshape(-1, 4)


def _share_matrix(examples: Sequence[Example]) -> NDArray[np.float32]:
    return np.array([e.shares or [math.nan] * 4 for e in examples], np.float32).reshape(-1, 4)


def row_columns(examples: Sequence[Example]) -> dict[str, Any]:
    """What a table of predictions has of each row itself."""
    return {
        "number": [e.number for e in examples],
        "post": [e.post for e in examples],
        "true": [e.mbti_type for e in examples],
    }


def prediction_columns(
    types: Sequence[str], predicted: SplitPredictions, suffix: str = ""
) -> dict[str, Any]:
    """What a table has of the predictions of a bundle: the type and four probabilities."""
    columns = torch.sigmoid(torch.from_numpy(predicted.logits)).double().T.numpy()
    names = [f"{pole}{suffix}" for pole in POSITIVE_POLES]
    return {f"type{suffix}": types} | dict(zip(names, columns, strict=True))


def _tfidf(data: EvaluationData, *, is_served: bool) -> Callable[[], Baseline] | str:
    """The baseline, trained as in the run that the bundle is of; or why it is left out."""
    training = data.training

    def fit() -> TfidfModel:
        assert training is not None
        soft = data.config.loss.targets == "shares"
        labels, shares = _label_matrix(training), _share_matrix(training)
        targets = np.where(np.isnan(shares), labels, shares) if soft else labels
        return fit_tfidf(["\n".join(e.texts) for e in training], targets)

    learned = learned_baseline(data.config, fit, ["\n".join(e.texts) for e in data.examples])
    if isinstance(learned, str) or (training is not None and is_served):
        return learned
    if training is None:
        return "needs the split of the data that the bundle was trained on"
    return "computed only with masking as served"
