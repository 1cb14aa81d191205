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
from mbti_ray.data.windows import Windows
from mbti_ray.engine.loop import Outcome
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.inference.tfidf_baseline import train_tfidf_baseline
from mbti_ray.reports.hero import About
from mbti_ray.reports.html import write_page
from mbti_ray.reports.scorecard_page import scorecard_page
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.baselines import build_baselines
from mbti_ray.scores.calibration import (
    Lengths,
    fit_length_scaling,
    fit_temperature,
    fit_thresholds,
)
from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.metrics import Scores, score_rows
from mbti_ray.scores.scorecard import Scorecard, Scored, build_scorecard

Floats = NDArray[np.float64]


def finalize_run(config: RunConfig, data: Dataset, outcome: Outcome, folder: RunFolder) -> None:
    """Write bundle/ and report.html, then scores.json, which marks the run as finished."""
    val_logits = outcome.val_logits.numpy()
    rule = fit_decision_rule(config.scoring, outcome, data.splits["val"])
    history = outcome.progress.history
    scores = {
        "best_epoch": outcome.progress.best_epoch,
        "val": _scores_as_served(val_logits, data.splits["val"], rule),
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


def fit_decision_rule(scoring: ScoringConfig, outcome: Outcome, val: Windows) -> DecisionRule:
    """Temperatures and thresholds, fitted to the validation rows and their beginnings."""
    rule, logits = DecisionRule(abstain=scoring.abstain), outcome.val_logits.numpy()
    if scoring.calibrate:
        temperature = fit_temperature(logits, val.labels)
        length = fit_length_scaling(_rows_of_all_lengths(outcome, val))
        rule = rule.model_copy(update={"temperature": temperature, "length": length})
    probabilities = _sigmoid(logits / rule.temperatures(val.tokens))
    thresholds = fit_thresholds(probabilities, val.labels, scoring.threshold)
    return rule.model_copy(update={"thresholds": thresholds})


def _rows_of_all_lengths(outcome: Outcome, val: Windows) -> Lengths:
    parts = [(val, outcome.val_logits, True)]
    if outcome.short is not None and outcome.short_logits is not None:
        parts.append((outcome.short, outcome.short_logits, False))
    return Lengths(
        logits=np.concatenate([logits.numpy() for _, logits, _ in parts]),
        labels=np.concatenate([rows.labels for rows, _, _ in parts]),
        tokens=np.concatenate([rows.tokens for rows, _, _ in parts]).astype(float),
        persons=np.concatenate([rows.persons for rows, _, _ in parts]),
        is_whole=np.repeat([whole for *_, whole in parts], [r.row_count for r, *_ in parts]),
    )


def _test_scores(
    config: RunConfig, data: Dataset, logits: Floats, rule: DecisionRule
) -> dict[str, Any]:
    """Scores and scorecard of the test split, with calibration error before and after fitting."""
    test, train = data.splits["test"], data.splits["train"]
    calibrated = logits / rule.temperatures(test.tokens)
    baselines, missing = build_baselines(
        test.labels,
        test.mentioned,
        is_masked=data.info.mask_version > 0,
        learned=(lambda: train_tfidf_baseline(train.texts, train.labels, test.texts))
        if config.scoring.baselines
        else "scoring.baselines=false",
    )
    thresholds, labels = np.array(rule.thresholds), test.labels
    scored = Scored(
        _sigmoid(calibrated), labels, thresholds, test.persons, rule.abstain, test.tokens
    )
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
        "test": _scores_as_served(logits, test, rule),
        "scorecard": scorecard,
        "calibration": {
            **rule.model_dump(),
            "threshold_objective": config.scoring.threshold,
            "before": _calibration_error(uncalibrated),
            "after": _calibration_error(scorecard),
        },
    }


def _scores_as_served(logits: Floats, rows: Windows, rule: DecisionRule) -> Scores:
    """Scores of uncalibrated logits [R, 4] under the decision rule of the bundle."""
    calibrated = torch.from_numpy(logits / rule.temperatures(rows.tokens))
    labels = torch.from_numpy(rows.labels)
    return score_rows(calibrated, labels, torch.tensor(rule.thresholds).double())


def _calibration_error(scorecard: Scorecard) -> dict[str, float]:
    return {name: scorecard["overall"][name]["value"] for name in ("brier", "ece")}


def _sigmoid(logits: Floats) -> Floats:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()
