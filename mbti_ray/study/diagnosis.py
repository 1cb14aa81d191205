"""Diagnosis of a search from its trials, with what to try: failures, ranges, too few trials."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mbti_ray.config import StudyConfig, override
from mbti_ray.config.search_space import can_suggest, default_point, range_ends
from mbti_ray.config.study import Choices, FloatRange, IntRange, Range
from mbti_ray.errors import ConfigError
from mbti_ray.scores.findings import Finding, round_to_try
from mbti_ray.study.records import TrialRecord, rank

_FEW_TRIALS = 5
_EDGE = 0.05
# The best trial alone is near an edge of a range in 1 of 10 studies by chance: this many of the
# best trials must lie in the same half.
_AGREEING_TRIALS = 3


def diagnose_study(config: StudyConfig, trials: Sequence[TrialRecord]) -> list[Finding]:
    """What the trials of a study show about its search; empty where it needs no change."""
    ended = [t for t in trials if t.imported is None and t.state != "RUNNING"]
    failed = [t for t in ended if t.state == "FAIL"]
    if not ended:
        return []
    if 2 * len(failed) > len(ended):
        return [_most_fail(config, ended, failed)]
    return [*_few_complete(config, ended), *_edges(config, rank(ended, config.objectives))]


def _most_fail(
    config: StudyConfig, ended: Sequence[TrialRecord], failed: Sequence[TrialRecord]
) -> Finding:
    """How many failed, and the range to cut where all failures lie above all other trials."""
    evidence = f"{len(failed)} of {len(ended)} trials failed"
    rest = [t for t in ended if t.state != "FAIL"]
    for address, searched in config.search.items():
        good = [t.params[address] for t in rest if address in t.params]
        bad = [t.params[address] for t in failed if address in t.params]
        if isinstance(searched, Choices) or not good or max(good) >= min(bad, default=-math.inf):
            continue
        low, _ = range_ends(searched)
        if max(good) > low:
            evidence += (
                f", all of them with {address} above {max(good):.3g}, and no other trial above that"
            )
            cut = _with_ends(searched, low, max(good))
            tries: dict[str, Any] = {f"search.{address}": _plain(cut)}
            default = (default_point(config) or {}).get(address)
            if config.study.try_default and default is not None and not can_suggest(cut, default):
                tries["study.try_default"] = False
            return Finding("most trials fail", None, evidence, tries)
    return Finding("most trials fail", None, evidence, {})


def _few_complete(config: StudyConfig, ended: Sequence[TrialRecord]) -> list[Finding]:
    complete = sum(t.state == "COMPLETE" for t in ended)
    if complete >= _FEW_TRIALS:
        return []
    stopped = sum(t.state == "PRUNED" for t in ended)
    evidence = (
        f"{complete} of {len(ended)} trials completed ({stopped} stopped early): too few "
        "to compare them"
    )
    # As many as let five complete at this rate, but at most four times as many.
    needed = math.ceil(
        (config.study.trials or len(ended)) * min(4.0, _FEW_TRIALS / max(complete, 1))
    )
    return [Finding("few trials complete", None, evidence, {"study.trials": needed})]


def _edges(config: StudyConfig, ranked: Sequence[TrialRecord]) -> Iterator[Finding]:
    """A finding for each range at whose end the best of the ranked trials is, others near it."""
    if len(ranked) < _FEW_TRIALS:
        return
    best, value = ranked[0], (ranked[0].values or [math.nan])[0]
    for address, searched in config.search.items():
        # Choices have no order, and so no edge.
        if isinstance(searched, Choices) or any(address not in t.params for t in ranked):
            continue
        positions = [_position(searched, t.params[address]) for t in ranked[:_AGREEING_TRIALS]]
        if positions[0] <= _EDGE and max(positions) < 0.5:
            end = "low"
        elif positions[0] >= 1 - _EDGE and min(positions) > 0.5:
            end = "high"
        else:
            continue
        wider = _widened(config, address, searched, end)
        if wider is None:
            continue
        low, high = range_ends(searched)
        evidence = (
            f"the best trial, {best.number} ({config.objective} {value:.4g}), has {address}="
            f"{best.params[address]:.3g}, at the {end} end of the range {low:.3g} to {high:.3g}, "
            f"and the next {_AGREEING_TRIALS - 1} lie in the same half"
        )
        yield Finding(
            "best at the edge of a range", None, evidence, {f"search.{address}": _plain(wider)}
        )


def _position(searched: FloatRange | IntRange, value: float) -> float:
    """The position of a value in its range, from 0 to 1 on the range's own scale."""
    low, high = map(float, range_ends(searched))
    if isinstance(searched, FloatRange) and searched.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _widened(
    config: StudyConfig, address: str, searched: FloatRange | IntRange, end: str
) -> Range | None:
    """The range with one end moved outward by half its width, or as far as the setting allows."""
    for fraction in (0.5, 0.25, 0.125):
        moved = _moved(searched, end, fraction)
        try:
            override(config, {address: moved})
        except ConfigError:
            continue
        low, high = range_ends(searched)
        return _with_ends(searched, *((moved, high) if end == "low" else (low, moved)))
    return None


def _moved(searched: FloatRange | IntRange, end: str, fraction: float) -> float:
    low, high = map(float, range_ends(searched))
    outward = -1 if end == "low" else 1
    edge = low if end == "low" else high
    if isinstance(searched, IntRange):
        return edge + outward * math.ceil((high - low) * fraction)
    if searched.log:
        return round_to_try(edge * (high / low) ** (outward * fraction))
    return round_to_try(edge + outward * (high - low) * fraction)


def _with_ends(searched: FloatRange | IntRange, low: float, high: float) -> Range:
    if isinstance(searched, FloatRange):
        return FloatRange(low=low, high=high, log=searched.log, when=searched.when)
    return IntRange(int_low=int(low), int_high=int(high), when=searched.when)


def _plain(searched: Range) -> dict[str, Any]:
    """A range as written under `search`."""
    return searched.model_dump(mode="json", exclude=set() if searched.when else {"when"})
