"""Scores of predicted rows: of the test split of a run, of folds, or of any labeled rows.

Must not know how the rows were predicted. Shapes: R rows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mbti_ray.config import RunConfig
from mbti_ray.data.windows import Windows
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.model.tfidf import TfidfModel
from mbti_ray.scores.baselines import Baseline, build_baselines
from mbti_ray.scores.metrics import Scored, Scores, score_rows
from mbti_ray.scores.scorecard import Scorecard, build_scorecard

_ARRAYS = ("logits", "thresholds", "labels", "shares", "persons", "mentioned", "tokens")


@dataclass(frozen=True)
class SplitPredictions:
    """Rows with calibrated logits and thresholds [R, 4]; the rest is as in `Windows`.

    `tokens` is None where lengths are not compared; `tfidf` [R, 4] is what that baseline predicts.
    """

    logits: NDArray[Any]
    thresholds: NDArray[Any]
    labels: NDArray[np.uint8]
    shares: NDArray[np.float32]
    persons: NDArray[np.int32]
    mentioned: NDArray[np.int8]
    tokens: NDArray[np.int64] | None
    tfidf: NDArray[np.bool_] | None = None
    abstain: float = 0.0

    @classmethod
    def of(
        cls,
        logits: NDArray[np.float64],
        tokens: NDArray[np.int64],
        rows: Windows,
        rule: DecisionRule,
    ) -> "SplitPredictions":
        """From the uncalibrated logits of a split and the tokens read, by a decision rule."""
        calibrated = logits / rule.temperatures(tokens)
        given = (rows.labels, rows.shares, rows.persons, rows.mentioned, tokens)
        thresholds = np.tile(rule.thresholds, (len(logits), 1))
        return cls(calibrated, thresholds, *given, abstain=rule.abstain)

    def take(self, rows: NDArray[Any]) -> "SplitPredictions":
        """Some of the rows, by a mask or their places."""
        arrays = {name: each[rows] for name, each in vars(self).items() if np.ndim(each)}
        return replace(self, **arrays)

    def scored(self) -> Scored:
        probabilities = torch.sigmoid(torch.from_numpy(self.logits).double()).numpy()
        given = (self.labels, self.thresholds, self.persons, self.abstain, self.tokens)
        return Scored(probabilities, *given)

    def scores(self) -> Scores:
        rows = (self.logits, self.labels, self.thresholds, self.shares)
        logits, labels, thresholds, shares = map(torch.tensor, rows)
        return score_rows(logits, labels, thresholds, shares=shares)

    def save(self, path: Path) -> None:
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        save_file(arrays | ({} if self.tfidf is None else {"tfidf": self.tfidf}), path)


def load_predictions(paths: Sequence[Path], *, abstain: float) -> SplitPredictions:
    """What `save` wrote to several files, together."""
    parts = [load_file(path) for path in paths]
    names = set.intersection(*map(set, parts))
    arrays: dict[str, Any] = {n: np.concatenate([part[n] for part in parts]) for n in names}
    return SplitPredictions(**arrays, abstain=abstain)


def build_card(
    config: RunConfig,
    rows: SplitPredictions,
    *,
    person: str,
    is_masked: bool,
    learned: Callable[[], Baseline] | str,
) -> tuple[Scorecard, list[Baseline]]:
    """The scorecard of predictions, and the baselines in it; see `build_baselines`."""
    baselines, missing = build_baselines(
        rows.labels, rows.mentioned, is_masked=is_masked, learned=learned
    )
    scorecard = build_scorecard(
        rows.scored(),
        baselines,
        resamples=config.scoring.resamples,
        person=person,
        missing=missing,
        seed=config.seed,
    )
    return scorecard, baselines


def tfidf_baseline(model: TfidfModel, texts: Sequence[str]) -> Baseline:
    """The baseline for texts, as the model reads them."""
    return Baseline(
        name="tfidf",
        description="TF-IDF of words and word pairs with balanced logistic regression",
        predicted=model.logits([model.encode(text) for text in texts]) > 0,
    )


def learned_baseline(
    config: RunConfig, fit: Callable[[], TfidfModel], texts: Sequence[str]
) -> Callable[[], Baseline] | str:
    """What fits the TF-IDF baseline and predicts texts by it; or why it is left out."""
    if not config.scoring.baselines:
        return "scoring.baselines=false"
    if config.model.reader == "tfidf":
        return "it is the model itself"

    return lambda: tfidf_baseline(fit(), texts)


def calibration_errors(scorecard: Scorecard) -> dict[str, float]:
    """How far the probabilities are off."""
    return {name: scorecard["overall"][name]["value"] for name in ("brier", "ece")}
