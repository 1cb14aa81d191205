"""Cross-validation: what the folds of a run predicted, scored together, and their decision rules.

Each row is predicted once, by the run that was not trained on its person. Must not know how a fold
is trained, Ray or HTTP.

Shapes: R rows of all folds, 4 dimensions in the order E, N, T, J.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.scores.baselines import Baseline, build_baselines
from mbti_ray.scores.calibration import LengthScaling
from mbti_ray.scores.metrics import score_rows
from mbti_ray.scores.scorecard import Scored, build_scorecard


def write_predictions(
    folder: RunFolder, scored: Scored, mentioned: NDArray[np.int8], tfidf: Baseline | None
) -> None:
    """Write what a fold predicts for its rows."""
    arrays = {
        "probabilities": scored.probabilities,
        "labels": scored.labels,
        "thresholds": np.broadcast_to(scored.thresholds, scored.probabilities.shape).copy(),
        "persons": np.asarray(scored.persons, np.int64),
        "mentioned": mentioned,
    }
    if scored.tokens is not None:
        arrays["tokens"] = scored.tokens
    if tfidf is not None:
        arrays["tfidf"] = tfidf.predicted
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder.predictions)


@dataclass(frozen=True)
class FoldResults:
    """The scores.json of each fold, and the predictions of all of them together."""

    scores: Sequence[dict[str, Any]]
    predictions: dict[str, NDArray[Any]]

    @property
    def epochs(self) -> int | None:
        """The median of the folds' best epochs; None without an encoder."""
        found = [s["best_epoch"] for s in self.scores if s["best_epoch"] is not None]
        return round(median(found)) if found else None

    @property
    def rule(self) -> DecisionRule:
        """The mean of the folds' rules, each fitted to validation rows of its own."""
        rules = [s["calibration"] for s in self.scores]
        temperature = np.exp(np.mean([np.log(r["temperature"]) for r in rules], 0))
        lengths = [LengthScaling(**r["length"]) for r in rules if r["length"]]
        length = None
        if 2 * len(lengths) > len(rules):
            length = LengthScaling(
                slope=(np.sum([n.slope for n in lengths], 0) / len(rules)).tolist(),
                reference=float(np.exp(np.mean([np.log(n.reference) for n in lengths]))),
                low=min(n.low for n in lengths),
                high=max(n.high for n in lengths),
            )
        return DecisionRule(
            temperature=temperature.tolist(),
            length=length,
            thresholds=np.mean([r["thresholds"] for r in rules], 0).tolist(),
            abstain=rules[0]["abstain"],
        )

    @property
    def reader(self) -> str:
        """What most folds ship; of equally many the first."""
        shipped: list[str] = [s["reader"] for s in self.scores]
        return max(dict.fromkeys(shipped), key=shipped.count)


def read_folds(config: RunConfig, folder: RunFolder) -> FoldResults:
    """The results of all folds of a run, which are finished."""
    scores, predictions = [], []
    for number in range(1, (config.data.folds or 0) + 1):
        with open_run(folder.fold(number).location) as fold:
            scores.append(json.loads(fold.scores.read_text("utf-8")))
            predictions.append(load_file(fold.predictions))
    names = set.intersection(*map(set, predictions))
    return FoldResults(scores, {n: np.concatenate([p[n] for p in predictions]) for n in names})


def score_folds(config: RunConfig, data: Dataset, results: FoldResults) -> dict[str, Any]:
    """What scores.json holds of all folds together."""
    found = results.predictions
    labels = found["labels"]
    scored = Scored(
        found["probabilities"],
        labels,
        found["thresholds"],
        found["persons"],
        config.scoring.abstain,
        found.get("tokens"),
    )
    card = results.scores[0]["scorecard"]
    reason = card["missing"].get("tfidf", "a fold has none")
    description = card["baselines"].get("tfidf", {}).get("description", "")
    baselines, missing = build_baselines(
        labels,
        found["mentioned"],
        is_masked=data.info.mask_version > 0,
        learned=(lambda: Baseline("tfidf", description, found["tfidf"].astype(bool)))
        if "tfidf" in found
        else reason,
    )
    scorecard = build_scorecard(
        scored,
        baselines,
        resamples=config.scoring.resamples,
        person=data.info.person,
        missing=missing,
        seed=config.seed,
    )
    logits = torch.logit(torch.from_numpy(found["probabilities"]))
    test = score_rows(logits, torch.from_numpy(labels), torch.from_numpy(found["thresholds"]))
    of_val = [s["val"] for s in results.scores]
    return {
        "reader": results.reader,
        "best_epoch": results.epochs,
        # The mean of the folds, for each score that all of them have.
        "val": {
            name: sum(scores[name] for scores in of_val) / len(of_val)
            for name in set.intersection(*map(set, of_val))
        },
        "test": test,
        "scorecard": scorecard,
        "calibration": {
            **results.rule.model_dump(),
            "threshold_objective": config.scoring.threshold,
            "before": {
                name: float(np.mean([s["calibration"]["before"][name] for s in results.scores]))
                for name in ("brier", "ece")
            },
            "after": {name: scorecard["overall"][name]["value"] for name in ("brier", "ece")},
        },
        "diagnosis": [],
        "folds": [
            {"best_epoch": s["best_epoch"], "reader": s["reader"], "test": s["test"]}
            for s in results.scores
        ],
    }
