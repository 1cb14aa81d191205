"""Sampling the search space: distributions, and the next point that was not tried yet.

Optuna's sampler chooses, but must not repeat itself, which in a search over a few choices it would.
"""

import itertools
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from mbti_ray.config.search_space import can_suggest, is_active, range_ends, topological_order
from mbti_ray.config.study import Choices, FloatRange, IntRange, Range

# How a copied trial is perturbed, from Jaderberg et al. 2017.
_FACTORS = (0.8, 1.25)
_RESAMPLE_PROBABILITY = 0.25

Point = dict[str, Any]
Search = Mapping[str, Range]

# How often the sampler may repeat known points before the remaining ones are enumerated.
_ATTEMPTS = 20


def distribution(values: Range) -> BaseDistribution:
    """A searched range as Optuna's distribution."""
    if isinstance(values, Choices):
        return CategoricalDistribution(values.choices)
    if isinstance(values, FloatRange):
        return FloatDistribution(values.low, values.high, log=values.log)
    return IntDistribution(values.int_low, values.int_high)


def fits(search: Search, point: Point) -> bool:
    """Whether a point has exactly the addresses that its own conditions activate, in range."""
    active = {a for a in search if is_active(search[a], point)}
    if active != point.keys():
        return False
    return all(can_suggest(search[a], v) for a, v in point.items())


def ask_trial(study: optuna.Study, search: Search) -> optuna.Trial | None:
    """The next trial: an enqueued point or a new one; None where every point has been tried."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        point = _new_point(study, search)
        if point is None:
            return None
        study.enqueue_trial(point)
    with warnings.catch_warnings():
        # That heartbeats are meant for `optimize`: here `drivers` sends them.
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        trial = study.ask()
    suggested: Point = {}
    for address in topological_order(search):
        if is_active(search[address], suggested):
            suggested[address] = _suggest(trial, address, search[address])
    return trial


def perturb(search: Search, point: Point, rng: random.Random) -> Point:
    """A point near another: numbers times 0.8 or 1.25, within range; some choices resampled."""
    perturbed = dict(point)
    for address, values in search.items():
        if isinstance(values, Choices):
            if rng.random() < _RESAMPLE_PROBABILITY:
                perturbed[address] = rng.choice(values.choices)
            continue
        low, high = range_ends(values)
        before, factor = point[address], rng.choice(_FACTORS)
        # Zero has no multiples: it moves by as much of the range.
        moved = before * factor if before else (factor - 1) * (high - low)
        if not isinstance(values, FloatRange):
            # By one at least: 1.25 times 1 is 1.
            moved = max(before + 1, round(moved)) if factor > 1 else min(before - 1, round(moved))
        perturbed[address] = min(high, max(low, moved))
    return perturbed


def _new_point(study: optuna.Study, search: Search) -> Point | None:
    tried = {_key(t.params) for t in study.get_trials(deepcopy=False)}
    for _ in range(_ATTEMPTS):
        point = _sample(study, search)
        if _key(point) not in tried:
            return point
    if any(isinstance(values, FloatRange) for values in search.values()):
        return _sample(study, search)
    untried = (point for point in _all_points(search) if _key(point) not in tried)
    return next(untried, None)


def _sample(study: optuna.Study, search: Search) -> Point:
    """A point from the study's sampler, without a trial in the study."""
    probe = optuna.trial.create_trial(state=TrialState.RUNNING)
    point: Point = {}
    for address in topological_order(search):
        if is_active(search[address], point):
            chosen = distribution(search[address])
            point[address] = study.sampler.sample_independent(study, probe, address, chosen)
    return point


def _suggest(trial: optuna.Trial, address: str, values: Range) -> Any:
    if isinstance(values, Choices):
        return trial.suggest_categorical(address, values.choices)
    if isinstance(values, FloatRange):
        return trial.suggest_float(address, values.low, values.high, log=values.log)
    return trial.suggest_int(address, values.int_low, values.int_high)


def _key(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((address, repr(value)) for address, value in point.items()))


def _all_points(search: Search) -> Iterator[Point]:
    addresses, seen = topological_order(search), set()
    values = [
        range(v.int_low, v.int_high + 1) if isinstance(v, IntRange) else range_ends(v)
        for v in map(search.__getitem__, addresses)
    ]
    for chosen in itertools.product(*values):
        point: Point = {}
        for address, value in zip(addresses, chosen, strict=True):
            if is_active(search[address], point):
                point[address] = value
        if _key(point) not in seen:
            seen.add(_key(point))
            yield point
