"""What the trials of a study say of its search, and what to try: failures, ranges, too few trials.

Knows configs and how trials ended; nothing of Optuna or of where things run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.config import StudyConfig, override
from mbti_ray.config.schema import mode_of
from mbti_ray.config.search_space import can_suggest, default_point, range_ends
from mbti_ray.config.study import Choices, FloatRange, IntRange, Range
from mbti_ray.errors import ConfigError
from mbti_ray.scores.findings import Finding, rounded

_FEW_TRIALS = 5
_EDGE = 0.05
# The best alone stands at one edge of a range in 1 of 10 studies by luck: these many best trials
# must lie on the same half.
_AGREEING_TRIALS = 3


@dataclass(frozen=True)
class StudyTrial:
    """A trial as a study's diagnosis needs it.

    Attributes:
        state: COMPLETE, PRUNED or FAIL; others are not over and are not looked at.
        value: Its best value of the objective; None if it was never evaluated.
        params: Value by dotted address.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]


def diagnose_study(config: StudyConfig, trials: Sequence[StudyTrial]) -> list[Finding]:
    """What the trials of a study show of its search; nothing where it needs no change."""
    failed = [t for t in trials if t.state == "FAIL"]
    over = [t for t in trials if t.state in ("COMPLETE", "PRUNED", "FAIL")]
    if not over:
        return []
    if 2 * len(failed) > len(over):
        return [_most_fail(config, over, failed)]
    evaluated = [t for t in over if t.state != "FAIL" and t.value is not None]
    sign = 1 if mode_of(config.objective) == "min" else -1
    ranked = sorted(evaluated, key=lambda t: (sign * (t.value or 0.0), t.number))
    return [*_few_complete(config, over), *_edges(config, ranked)]


def _most_fail(
    config: StudyConfig, over: Sequence[StudyTrial], failed: Sequence[StudyTrial]
) -> Finding:
    """What failed, with the one range to cut where all failures lie above all the rest."""
    evidence = f"{len(failed)} of {len(over)} trials failed"
    rest = [t for t in over if t.state != "FAIL"]
    for address, searched in config.search.items():
        good = [t.params[address] for t in rest if address in t.params]
        bad = [t.params[address] for t in failed if address in t.params]
        if isinstance(searched, Choices) or not good or max(good) >= min(bad, default=-math.inf):
            continue
        low, _ = range_ends(searched)
        if max(good) > low:
            evidence += f", all with {address} above {max(good):.3g} and no other above it"
            cut = _with_ends(searched, low, max(good))
            tries: dict[str, Any] = {f"search.{address}": _plain(cut)}
            default = (default_point(config) or {}).get(address)
            if config.study.try_default and default is not None and not can_suggest(cut, default):
                tries["study.try_default"] = False
            return Finding("most trials fail", None, evidence, tries)
    return Finding("most trials fail", None, evidence, {})


def _few_complete(config: StudyConfig, over: Sequence[StudyTrial]) -> list[Finding]:
    complete = sum(t.state == "COMPLETE" for t in over)
    if complete >= _FEW_TRIALS:
        return []
    stopped = sum(t.state == "PRUNED" for t in over)
    evidence = (
        f"{complete} of {len(over)} trials ran to their end ({stopped} stopped early): too few to "
        "prefer one to another"
    )
    # As many as bring five to their end at this pace, but no more than four times as many.
    wanted = math.ceil(
        (config.study.trials or len(over)) * min(4.0, _FEW_TRIALS / max(complete, 1))
    )
    return [Finding("few trials complete", None, evidence, {"study.trials": wanted})]


def _edges(config: StudyConfig, ranked: Sequence[StudyTrial]) -> Iterator[Finding]:
    """A finding for each range at whose end the best trial stands, with others near it.

    Args:
        ranked: The evaluated trials, best first.
    """
    if len(ranked) < _FEW_TRIALS:
        return
    best = ranked[0]
    for address, searched in config.search.items():
        # Choices have no order, so no edge.
        if isinstance(searched, Choices) or any(address not in t.params for t in ranked):
            continue
        places = [_place(searched, t.params[address]) for t in ranked[:_AGREEING_TRIALS]]
        if places[0] <= _EDGE and max(places) < 0.5:
            end = "low"
        elif places[0] >= 1 - _EDGE and min(places) > 0.5:
            end = "high"
        else:
            continue
        wider = _widened(config, address, searched, end)
        if wider is None:
            continue
        low, high = range_ends(searched)
        evidence = (
            f"the best trial, {best.number} ({config.objective} {best.value:.4g}), has {address}="
            f"{best.params[address]:.3g}, at the {end} end of the range {low:.3g} to {high:.3g}, "
            f"and the {_AGREEING_TRIALS - 1} after it lie in the same half"
        )
        yield Finding(
            "best at the edge of a range", None, evidence, {f"search.{address}": _plain(wider)}
        )


def _place(searched: FloatRange | IntRange, value: float) -> float:
    """Where a value lies in its range, from 0 to 1 on the range's own scale."""
    low, high = map(float, range_ends(searched))
    if isinstance(searched, FloatRange) and searched.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _widened(
    config: StudyConfig, address: str, searched: FloatRange | IntRange, end: str
) -> Range | None:
    """The range with one end moved out by half its width, or by as much as the setting allows."""
    for part in (0.5, 0.25, 0.125):
        moved = _moved(searched, end, part)
        try:
            override(config, {address: moved})
        except ConfigError:
            continue
        low, high = range_ends(searched)
        return _with_ends(searched, *((moved, high) if end == "low" else (low, moved)))
    return None


def _moved(searched: FloatRange | IntRange, end: str, part: float) -> float:
    low, high = map(float, range_ends(searched))
    outward = -1 if end == "low" else 1
    edge = low if end == "low" else high
    if isinstance(searched, IntRange):
        return edge + outward * math.ceil((high - low) * part)
    if searched.log:
        return rounded(edge * (high / low) ** (outward * part))
    return rounded(edge + outward * (high - low) * part)


def _with_ends(searched: FloatRange | IntRange, low: float, high: float) -> Range:
    if isinstance(searched, FloatRange):
        return FloatRange(low=low, high=high, log=searched.log, when=searched.when)
    return IntRange(int_low=int(low), int_high=int(high), when=searched.when)


def _plain(searched: Range) -> dict[str, Any]:
    """A range as it is written under `search`."""
    plain = searched.model_dump(mode="json")
    return plain if plain["when"] else {k: v for k, v in plain.items() if k != "when"}
