"""Finalizing a run: fit the decision rule, score the test split, write the bundle and the report.

Whatever is fitted here is fitted on the validation split; the test split is only scored. Runs on
the machine that holds the model, in a training worker or a Ray task, but must not know Ray.

Shapes: R rows, 4 dimensions in the order E, N, T, J.
"""

from datetime import date
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig, ScoringConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.loop import Outcome
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.inference.tfidf_baseline import train_tfidf_baseline
from mbti_ray.reports.hero import About
from mbti_ray.reports.html import write_page
from mbti_ray.reports.scorecard_page import scorecard_page
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.baselines import build_baselines
from mbti_ray.scores.calibration import fit_temperature, fit_thresholds
from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.metrics import Scores, score_rows
from mbti_ray.scores.scorecard import Scorecard, Scored, build_scorecard

Floats = NDArray[np.float64]


def finalize_run(config: RunConfig, data: Dataset, outcome: Outcome, folder: RunFolder) -> None:
    """Write bundle/ and report.html, then scores.json, which marks the run as finished."""
    val_logits, val_labels = outcome.val_logits.numpy(), data.splits["val"].labels
    rule = fit_decision_rule(config.scoring, val_logits, val_labels)
    history = outcome.progress.history
    scores = {
        "best_epoch": outcome.progress.best_epoch,
        "val": _scores_as_served(val_logits, val_labels, rule),
        **_test_scores(config, data, outcome.test_logits.numpy(), rule),
        "diagnosis": [finding.as_dict() for finding in diagnose(config, history)],
    }
    manifest = write_bundle(
        folder.bundle, config=config, model=outcome.model, data=data, scores=scores, rule=rule
    )
    # The best run of a study has none of its own.
    metrics = [folder.metrics.name] if folder.metrics.exists() else []
    page = scorecard_page(
        _title(folder),
        {"test": scores["scorecard"]},
        kind="run",
        about=About(config, str(folder.location), str(date.today())),
        links=["config.yaml", "scores.json", *metrics, "bundle/card.md"],
        calibration=scores["calibration"],
        findings=scores["diagnosis"],
        history=history,
        data_info=manifest.data,
    )
    write_page(folder.report, page)
    folder.write_scores(scores)


def _title(folder: RunFolder) -> str:
    """The name of the run; that of a study's best run names the study."""
    name = folder.location.name
    return f"{folder.location.parent.name}/{name}" if name == "best" else name


def fit_decision_rule(
    scoring: ScoringConfig, logits: Floats, labels: NDArray[np.uint8]
) -> DecisionRule:
    """Temperatures and thresholds, fitted to the logits [R, 4] and labels [R, 4] of validation."""
    temperature = fit_temperature(logits, labels) if scoring.calibrate else [1.0] * 4
    thresholds = fit_thresholds(_sigmoid(logits / temperature), labels, scoring.threshold)
    return DecisionRule(temperature=temperature, thresholds=thresholds, abstain=scoring.abstain)


def _test_scores(
    config: RunConfig, data: Dataset, logits: Floats, rule: DecisionRule
) -> dict[str, Any]:
    """Scores and scorecard of the test split, with calibration error before and after fitting."""
    test, train = data.splits["test"], data.splits["train"]
    calibrated = logits / np.array(rule.temperature)
    baselines, missing = build_baselines(
        test.labels,
        test.mentioned,
        is_masked=data.info.mask_version > 0,
        learned=(lambda: train_tfidf_baseline(train.texts, train.labels, test.texts))
        if config.scoring.baselines
        else "scoring.baselines=false",
    )
    thresholds, labels = np.array(rule.thresholds), test.labels
    scored = Scored(_sigmoid(calibrated), labels, thresholds, test.persons, rule.abstain)
    scorecard = build_scorecard(
        scored,
        baselines,
        resamples=config.scoring.resamples,
        person=data.info.person,
        missing=missing,
        seed=config.seed,
    )
    raw = Scored(_sigmoid(logits), test.labels, np.full(4, 0.5), test.persons)
    uncalibrated = build_scorecard(raw, (), resamples=0, person=data.info.person)
    return {
        "test": _scores_as_served(logits, test.labels, rule),
        "scorecard": scorecard,
        "calibration": {
            **rule.model_dump(),
            "threshold_objective": config.scoring.threshold,
            "before": _calibration_error(uncalibrated),
            "after": _calibration_error(scorecard),
        },
    }


def _scores_as_served(logits: Floats, labels: NDArray[np.uint8], rule: DecisionRule) -> Scores:
    """Scores of uncalibrated logits [R, 4] under the decision rule of the bundle."""
    calibrated = torch.from_numpy(logits / np.array(rule.temperature))
    return score_rows(calibrated, torch.from_numpy(labels), torch.tensor(rule.thresholds).double())


def _calibration_error(scorecard: Scorecard) -> dict[str, float]:
    return {name: scorecard["overall"][name]["value"] for name in ("brier", "ece")}


def _sigmoid(logits: Floats) -> Floats:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()
