"""Finalizing a run: fit the decision rule, score the test split, write the bundle and the report.

Whatever is fitted here is fitted on the validation split; the test split is only scored. Runs on
the machine that holds the model. Shapes: R rows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import torch

from mbti_ray.config.schema import RunConfig, ScoringConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows, shorten_rows
from mbti_ray.engine.loop import Outcome
from mbti_ray.engine.metrics_record import MetricsRecord
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.folds import read_folds, score_folds
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.inference.members import Member, build_members, choose_member
from mbti_ray.inference.split_predictions import (
    SplitPredictions,
    build_card,
    calibration_errors,
    learned_baseline,
)
from mbti_ray.model.tfidf import TfidfModel, fit_tfidf
from mbti_ray.reports.html import write_page
from mbti_ray.reports.scorecard_page import About, scorecard_page
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.bootstrap import Array
from mbti_ray.scores.calibration import Lengths, fit_length_scaling, fit_temperature, fit_thresholds
from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import Mistake, build_scorecard, find_mistakes


def finalize_run(
    config: RunConfig,
    data: Dataset,
    outcome: Outcome | None,
    folder: RunFolder,
    *,
    cross_fitted: Array | None = None,
) -> None:
    """Write bundle/ and report.html, then scores.json, which marks the run as finished.

    `outcome` is that of the encoder, None where `model.reader` has none; for `cross_fitted` see
    `build_members`.
    """
    val = data.splits["val"]
    short = shorten_rows(val)
    members = build_members(config, data, short, outcome, cross_fitted)
    if config.data.trains_on_all:
        results = read_folds(config, folder)
        return _write(
            config, data, members[-1], score_folds(config, data, results), results.rule, folder
        )
    rules = [fit_decision_rule(config.scoring, m, val, short) for m in members]
    on_val = [
        SplitPredictions.of(m.val.logits, m.val.tokens, val, rule)
        for m, rule in zip(members, rules, strict=True)
    ]
    scored = [rows.scored() for rows in on_val]
    place, choice = choose_member(members, scored, config.fit.monitor, seed=config.seed)
    member, rule = members[place], rules[place]
    config = member.config
    history = outcome.progress.history if outcome else []
    tfidf = next((m.tfidf for m in members if m.tfidf), None)
    test = data.splits["test"]
    on_test = SplitPredictions.of(member.test.logits, member.test.tokens, test, rule)
    scores = {
        "reader": member.reader,
        "best_epoch": outcome.progress.best_epoch if outcome else None,
        "val": on_val[place].scores(),
        **_test_scores(config, data, member, on_test, rule, tfidf, folder),
        "diagnosis": [finding.as_dict() for finding in diagnose(config, history)],
    }
    if choice:
        scores["choice"] = choice
    count = config.scoring.examples
    mistakes = find_mistakes(on_test.scored(), test.texts, count=count) if count else []
    _write(config, data, member, scores, rule, folder, history, mistakes)


def _write(
    config: RunConfig,
    data: Dataset,
    member: Member,
    scores: dict[str, Any],
    rule: DecisionRule,
    folder: RunFolder,
    history: Sequence[MetricsRecord] = (),
    mistakes: Sequence[Mistake] = (),
) -> None:
    split = f"{config.data.folds} folds" if config.data.trains_on_all else "test"
    manifest = write_bundle(
        folder.bundle,
        config=config,
        model=member.encoder,
        tfidf=member.tfidf,
        stack=member.stack,
        data=data,
        scores=scores,
        rule=rule,
    )
    # The best run of a study has none of its own.
    metrics = [folder.metrics.name] if folder.metrics.exists() else []
    page = scorecard_page(
        _title(folder),
        {split: scores["scorecard"]},
        kind="run",
        about=About(config, str(folder.location), str(date.today())),
        links=["config.yaml", "scores.json", *metrics, "bundle/card.md"],
        calibration=scores["calibration"],
        findings=scores["diagnosis"],
        history=history,
        data_info=manifest.data,
        mistakes=mistakes,
    )
    write_page(folder.report, page)
    folder.write_scores(scores)


def _title(folder: RunFolder) -> str:
    """The name of the run; that of a study's best run names the study."""
    name = folder.location.name
    return f"{folder.location.parent.name}/{name}" if name == "best" else name


def fit_decision_rule(
    scoring: ScoringConfig, member: Member, val: Windows, short: Windows
) -> DecisionRule:
    """Temperatures and thresholds, fitted to the validation rows and their beginnings."""
    rule, logits = DecisionRule(abstain=scoring.abstain), member.val.logits
    if scoring.calibrate:
        both = (member.val, member.short)
        lengths = Lengths(
            logits=np.concatenate([read.logits for read in both]),
            labels=np.concatenate([val.labels, short.labels]),
            tokens=np.concatenate([read.tokens for read in both]).astype(float),
            persons=np.concatenate([val.persons, short.persons]),
            is_whole=np.repeat([True, False], [val.row_count, short.row_count]),
        )
        temperature, length = fit_temperature(logits, val.labels), fit_length_scaling(lengths)
        rule = rule.model_copy(update={"temperature": temperature, "length": length})
    probabilities = _sigmoid(logits / rule.temperatures(member.val.tokens))
    thresholds = fit_thresholds(probabilities, val.labels, scoring.threshold)
    return rule.model_copy(update={"thresholds": thresholds})


def _test_scores(
    config: RunConfig,
    data: Dataset,
    member: Member,
    on_test: SplitPredictions,
    rule: DecisionRule,
    tfidf: TfidfModel | None,
    folder: RunFolder,
) -> dict[str, Any]:
    """Scores and scorecard of the test split, with calibration error before and after fitting."""
    info, test, train = data.info, data.splits["test"], data.splits["train"]

    def fit() -> TfidfModel:
        return tfidf or fit_tfidf(train.texts, train.targets(soft=config.loss.targets == "shares"))

    learned = learned_baseline(config, fit, test.texts)
    scorecard, baselines = build_card(
        config, on_test, person=info.person, is_masked=info.mask_version > 0, learned=learned
    )
    if config.data.fold is not None:
        predicted = next((b.predicted for b in baselines if b.name == "tfidf"), None)
        replace(on_test, tfidf=predicted).save(folder.predictions)
    raw = Scored(_sigmoid(member.test.logits), test.labels, np.full(4, 0.5), test.persons)
    uncalibrated = build_scorecard(raw, (), resamples=0, person=info.person)
    return {
        "test": on_test.scores(),
        "scorecard": scorecard,
        "calibration": {
            **rule.model_dump(),
            "threshold_objective": config.scoring.threshold,
            "before": calibration_errors(uncalibrated),
            "after": calibration_errors(scorecard),
        },
    }


def _sigmoid(logits: Array) -> Array:
    return torch.sigmoid(torch.from_numpy(logits)).numpy()
