"""Cross-validation: what the folds of a run predicted, scored together, and their decision rules.

Each row is predicted once, by the run that was not trained on its person. Must not know how a run
is trained. Shapes: R rows of all folds, 4 dimensions in the order E, N, T, J.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from mbti_ray.config import RunConfig, override
from mbti_ray.data.dataset import Dataset
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.inference.split_predictions import (
    SplitPredictions,
    build_card,
    calibration_errors,
    load_predictions,
)
from mbti_ray.runs.run_folder import RunFolder, open_run
from mbti_ray.scores.baselines import Baseline
from mbti_ray.scores.calibration import LengthScaling


@dataclass(frozen=True)
class FoldResults:
    """The scores.json of each fold, and the predictions of all of them together."""

    scores: Sequence[dict[str, Any]]
    predictions: SplitPredictions

    @property
    def epochs(self) -> int | None:
        """The median of the folds' best epochs; None without an encoder."""
        found = [s["best_epoch"] for s in self.scores if s["best_epoch"] is not None]
        return round(median(found)) if found else None

    @property
    def rule(self) -> DecisionRule:
        """The mean of the rules of the folds that ship `reader`, each fitted to validation rows of
        its own."""
        rules = [s["calibration"] for s in self.scores if s["reader"] == self.reader]
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


def train_folds(
    config: RunConfig,
    folder: RunFolder,
    train: Callable[[RunConfig, RunFolder], None],
    *,
    notify: Callable[[str], None] = lambda line: None,
) -> RunConfig:
    """Train the folds that are not finished; returns the config to train on all rows with."""
    count = config.data.folds or 0
    for number in range(1, count + 1):
        with open_run(folder.fold(number).location) as fold:
            if fold.scores.exists():
                continue
            train(override(config, {"data.fold": number}), fold)
            test = json.loads(fold.scores.read_text("utf-8"))["test"]
            notify(
                f"fold {number} of {count}: accuracy {test['acc_mean']:.3f}, macro-F1 "
                f"{test['f1_mean']:.3f} on {test['rows']:,.0f} rows"
            )
    results = read_folds(config, folder)
    changes: dict[str, Any] = {"model.reader": results.reader}
    if results.epochs is not None:
        changes |= {"fit.epochs": results.epochs, "fit.patience": None}
    return override(config, changes)


def read_folds(config: RunConfig, folder: RunFolder) -> FoldResults:
    """The results of all folds of a run, which are finished."""
    with ExitStack() as opened:
        folds = [
            opened.enter_context(open_run(folder.fold(number).location))
            for number in range(1, (config.data.folds or 0) + 1)
        ]
        scores = [json.loads(fold.scores.read_text("utf-8")) for fold in folds]
        predictions = load_predictions(
            [f.predictions for f in folds], abstain=config.scoring.abstain
        )
        return FoldResults(scores, predictions)


def score_folds(config: RunConfig, data: Dataset, results: FoldResults) -> dict[str, Any]:
    """What scores.json holds of all folds together."""
    card, tfidf = results.scores[0]["scorecard"], results.predictions.tfidf
    reason = card["missing"].get("tfidf", "a fold has none")
    description = card["baselines"].get("tfidf", {}).get("description", "")
    scorecard, _ = build_card(
        config,
        results.predictions,
        person=data.info.person,
        is_masked=data.info.mask_version > 0,
        learned=reason if tfidf is None else lambda: Baseline("tfidf", description, tfidf),
    )
    of_val = [s["val"] for s in results.scores]
    before = [s["calibration"]["before"] for s in results.scores]
    return {
        "reader": results.reader,
        "best_epoch": results.epochs,
        # The mean of the folds, for each score that all of them have.
        "val": {
            name: sum(scores[name] for scores in of_val) / len(of_val)
            for name in set.intersection(*map(set, of_val))
        },
        "test": results.predictions.scores(),
        "scorecard": scorecard,
        "calibration": {
            **results.rule.model_dump(),
            "threshold_objective": config.scoring.threshold,
            "before": {n: float(np.mean([b[n] for b in before])) for n in before[0]},
            "after": calibration_errors(scorecard),
        },
        "diagnosis": [],
        "folds": [
            {"best_epoch": s["best_epoch"], "reader": s["reader"], "test": s["test"]}
            for s in results.scores
        ],
    }
