"""How far metrics would vary with other people: bootstrap intervals and permutation tests.

Rows of one person are not independent, so whole persons are resampled. A metric that is made of
sums per person is then the product of how often each person was drawn [B, G] and those sums
[G, k]. Must not know what the metrics measure, nor models or files.

Shapes: R rows, G persons, B resamples, k values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Values [B, k] by metric, given how often each person counts [B, G] in B resamples.
Statistic = Callable[[Array], dict[str, Array]]

LEVEL = 0.95
# Resamples are computed in blocks of this many cells B x R: 1.6 MB an array, some 20 in all.
_BLOCK_CELLS = 200_000
# Sign flips: all of them up to this many, beyond that this many random ones.
_EXACT_FLIPS = 10_000
_RANDOM_FLIPS = 10_000


class Interval(TypedDict):
    """A metric and its interval; the bounds are None without resamples."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """Values [k] of a metric on all rows and on every resample [B, k]; the latter may be NaN."""

    value: Array
    resampled: Array

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference within each resample: both sides must come from one bootstrap."""
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def mean(self) -> "Estimate":
        """The mean of the values, as one value; undefined where one of them is."""
        return Estimate(self.value.mean(keepdims=True), self.resampled.mean(1, keepdims=True))

    def interval(self, index: int) -> Interval | None:
        """One value with its bounds, or None where it is undefined.

        Percentiles of the resamples in which the value is defined. Like every percentile
        bootstrap, the interval is somewhat narrow for few persons (below some 30).
        """
        value = float(self.value[index])
        if np.isnan(value):
            return None
        resampled = self.resampled[:, index]
        resampled = resampled[~np.isnan(resampled)]
        if not len(resampled):
            return {"value": value, "low": None, "high": None}
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(resampled, [tail, 100 - tail])
        return {"value": value, "low": float(low), "high": float(high)}


def bootstrap(
    statistic: Statistic, *, rows: int, groups: int, resamples: int, seed: int
) -> dict[str, Estimate]:
    """Every metric of a statistic on all persons once, and on persons drawn with replacement.

    The draws depend on the seed and the number of persons only, and are the same for all metrics.
    """
    whole = statistic(np.ones((1, groups)))
    blocks = [statistic(weights) for weights in _resampled_weights(rows, groups, resamples, seed)]
    return {
        name: Estimate(values[0], np.concatenate([values[:0], *(b[name] for b in blocks)]))
        for name, values in whole.items()
    }


def _resampled_weights(rows: int, groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each person was drawn, in blocks [b, G]."""
    # One random stream over all blocks, so that the block size does not change the results.
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // rows)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(0, groups, (count, groups))
        drawn += np.arange(count)[:, None] * groups
        times = np.bincount(drawn.ravel(), minlength=count * groups)
        yield times.reshape(count, groups).astype(float)


def sign_flip_p(differences: Array, *, seed: int) -> Array:
    """Two-sided p-values [k] of differences [G, k], summed per person, under a sign-flip test.

    If two classifiers are equally good, the difference of a person could as well have had the
    other sign. A flip negates all rows of a person at once, because they are not independent:
    flipping single rows (McNemar's test) would count one prolific author as that many witnesses.
    Up to 10,000 flips are enumerated, the identity among them; beyond that 10,000 random ones are
    drawn, with the correction (hits + 1) / (flips + 1) of Phipson and Smyth 2010.
    """
    # Persons without a difference look the same however they are flipped.
    differences = differences[differences.any(1)]
    groups = len(differences)
    if 2**groups <= _EXACT_FLIPS:
        flips = np.arange(2**groups)[:, None] >> np.arange(groups) & 1
        return np.asarray(_count_extreme(flips, differences, differences) / 2**groups)
    # Persons with the same differences are exchangeable: only how many are flipped matters.
    distinct, persons = np.unique(differences, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    hits = np.zeros(differences.shape[1])
    block = max(1, _BLOCK_CELLS // len(distinct))
    for start in range(0, _RANDOM_FLIPS, block):
        size = (min(block, _RANDOM_FLIPS - start), len(distinct))
        hits += _count_extreme(generator.binomial(persons, 0.5, size), differences, distinct)
    return (hits + 1) / (_RANDOM_FLIPS + 1)


def _count_extreme(flipped: NDArray[Any], differences: Array, distinct: Array) -> Array:
    """In how many of n flips [k] the sum is as far from 0 as the observed one.

    Args:
        flipped: How many persons of each distinct difference are flipped, [n, D].
        differences: As observed, [G, k].
        distinct: The distinct rows of `differences`, [D, k].
    """
    # Counts, and quarters of counts, add up exactly: no tolerance is needed.
    observed = differences.sum(0)
    sums = observed - 2 * (flipped.astype(float) @ distinct)
    return np.asarray((np.abs(sums) >= np.abs(observed)).sum(0), dtype=float)
