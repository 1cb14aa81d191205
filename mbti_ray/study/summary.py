"""What the trials of a study show, as a plain record for its page, its table and its last line."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mbti_ray.config import StudyConfig, get_value
from mbti_ray.config.schema import mode_of
from mbti_ray.config.search_space import range_ends
from mbti_ray.scores.study_summary import RungSummary, TrialsSummary
from mbti_ray.study.diagnosis import diagnose_study
from mbti_ray.study.records import EVALUATED, TrialRecord, best_of, pareto_front, records_of

# Fewer trials do not show which address matters.
_FEW_TRIALS = 5


def summarize_study(study: optuna.Study, config: StudyConfig) -> TrialsSummary:
    """What the trials of a study show of its search."""
    records = records_of(study)
    best = best_of(records, config.objectives)
    importances, missing = _importances(study)
    several = len(config.objectives) > 1
    return {
        "name": study.study_name,
        "objectives": [
            {"name": name, "direction": f"{mode_of(name)}imize"} for name in config.objectives
        ],
        "scheduler": config.study.scheduler,
        "search": {a: values.model_dump(mode="json") for a, values in config.search.items()},
        "trials": [asdict(record) for record in records],
        "best": best.number if best else None,
        "front": [r.number for r in pareto_front(records, config.objectives)] if several else [],
        "default": {
            "values": {address: get_value(config, address) for address in config.search},
            "trial": next((r.number for r in records if r.is_default), None),
        },
        "best_values": best.last_params if best else {},
        "importances": importances,
        "importances_missing": missing,
        "rungs": [rung_of(config, records, epoch) for epoch in rungs_of(config)],
        "counts": counts_of(records),
        "elapsed_s": elapsed_s(records),
        "findings": [finding.as_dict() for finding in diagnose_study(config, records)],
    }


def counts_of(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Number of trials by state, without imported ones."""
    return dict(sorted(Counter(r.state for r in records if r.imported is None).items()))


def max_epochs(config: StudyConfig) -> int:
    """Epochs of the longest trial that the search can suggest."""
    epochs = config.search.get("fit.epochs")
    if epochs is None:
        return config.fit.epochs
    # Without its condition, a trial has those of the config.
    return max(*map(int, range_ends(epochs)), config.fit.epochs if epochs.when else 0)


def rungs_of(config: StudyConfig) -> list[int]:
    """The epochs after which ASHA decides about a trial (Li et al. 2020, algorithm 2)."""
    if config.study.scheduler != "asha":
        return []
    rungs, epoch = [], min(config.study.grace_epochs, max_epochs(config))
    while epoch < max_epochs(config):
        rungs.append(epoch)
        epoch *= config.study.reduction
    return rungs


def rung_of(config: StudyConfig, records: Sequence[TrialRecord], epoch: int) -> RungSummary:
    """How many trials reached a rung, how many were stopped at it, and what it took to continue."""
    lower = mode_of(config.objective) == "min"
    reached = {
        r.number: next(e[1] for e in r.evaluations if e[0] >= epoch)
        for r in records
        if r.imported is None and r.epochs >= epoch and r.state in EVALUATED
    }
    later = [rung for rung in rungs_of(config) if rung > epoch]
    stopped = {
        r.number
        for r in records
        if r.number in reached and r.state == "PRUNED" and not (later and r.epochs >= later[0])
    }
    promoted = [value for number, value in reached.items() if number not in stopped]
    best, worst = (min, max) if lower else (max, min)
    return {
        "epoch": epoch,
        "reached": len(reached),
        "stopped": len(stopped),
        "best": best(reached.values(), default=None),
        "cut": worst(promoted, default=None),
    }


def elapsed_s(records: Sequence[TrialRecord]) -> float:
    """Seconds from the first trial's start to the last one's end, without pauses in between."""
    spans = sorted(
        (datetime.fromisoformat(r.started), datetime.fromisoformat(r.ended))
        for r in records
        if r.imported is None and r.started and r.ended
    )
    total, end = 0.0, datetime.min
    for start, stop in spans:
        total += max(0.0, (stop - max(start, end)).total_seconds())
        end = max(end, stop)
    return round(total, 3)


def _importances(study: optuna.Study) -> tuple[dict[str, float], str | None]:
    """How much each address explains of the trials' ranks (PED-ANOVA, Watanabe et al. 2023).

    Trials are ranked as Optuna's TPE does: stopped ones below all complete ones, first by the epoch
    that they reached, then by the first objective there.
    """
    sign = 1 if study.directions[0] is StudyDirection.MINIMIZE else -1
    costs: list[tuple[optuna.trial.FrozenTrial, tuple[int, float, float]]] = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state is TrialState.COMPLETE:
            costs.append((trial, (0, 0, sign * trial.values[0])))
        elif trial.state is TrialState.PRUNED and (reached := trial.user_attrs.get("evaluations")):
            costs.append((trial, (1, -reached[-1][0], sign * reached[-1][1])))
    if len(costs) < _FEW_TRIALS:
        return {}, f"{len(costs)} trials were evaluated, and it takes {_FEW_TRIALS}"
    ranks = {cost: rank for rank, cost in enumerate(sorted({cost for _, cost in costs}))}
    ranked = optuna.create_study()
    for trial, cost in costs:
        ranked.add_trial(
            optuna.trial.create_trial(
                value=ranks[cost], params=trial.params, distributions=trial.distributions
            )
        )
    with warnings.catch_warnings():
        # It warns that it is experimental.
        warnings.simplefilter("ignore", UserWarning)
        try:
            shares = optuna.importance.get_param_importances(
                ranked, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
        except (ValueError, RuntimeError) as error:
            return {}, str(error)
    if not shares:
        return {}, "no address is searched in all trials"
    return dict(shares), None
