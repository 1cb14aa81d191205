"""How far metrics would vary with other people: bootstrap intervals and permutation tests.

Rows of one person are not independent, so whole persons are resampled. A metric that is made of
sums per person is then the product of how often each was drawn [B, G] and those sums [G, k].

Shapes: R rows, G persons, B resamples, k values. Must not know what the metrics measure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Values [B, k] by metric, given how often each person counts [B, G] in B resamples.
Statistic = Callable[[Array], dict[str, Array]]

LEVEL = 0.95
# Resamples are computed in blocks of this many cells B x R: 1.6 MB an array, some 20 in all.
_BLOCK_CELLS = 200_000
# Swaps of persons: all of them up to this many, beyond that this many random ones.
_EXACT_SWAPS = 10_000
_RANDOM_SWAPS = 10_000
# Metrics that differ by rounding only are equal.
_ROUNDING = 1e-12


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


def swap_test(
    first: Array, second: Array, statistic: Callable[[Array], Array], *, seed: int
) -> tuple[Array, Array]:
    """Permutation tests of two classifiers, given what each one's metrics are sums of per person.

    If two classifiers are equally good, either could have made the predictions for a person. A swap
    exchanges all rows of a person at once, because they are not independent: swapping single rows
    (McNemar's test) would count one prolific author as that many witnesses. Up to 10,000 swaps are
    enumerated, the identity among them; beyond that 10,000 random ones are drawn, with the
    correction (hits + 1) / (swaps + 1) of Phipson and Smyth 2010.

    From the sums of each person [G, k], a statistic makes m metrics of sums [n, k] over all.
    Returns p-values [m] of the metrics of the second being other than, and lower than, the first's.
    """
    moved = second - first
    # Persons without a difference look the same however they are swapped.
    moved = moved[moved.any(1)]
    totals = first.sum(0), second.sum(0)

    def differences(swapped: Array) -> Array:
        change = swapped @ distinct
        return statistic(totals[1] - change) - statistic(totals[0] + change)

    groups, swaps = len(moved), _RANDOM_SWAPS
    # Persons with the same difference are exchangeable: only how many are swapped matters.
    distinct, persons = np.unique(moved, axis=0, return_counts=True)
    observed = differences(np.zeros((1, len(distinct))))[0]
    hits = np.zeros((2, len(observed)))
    is_exact = 2**groups <= _EXACT_SWAPS
    if is_exact:
        distinct, swaps = moved, 2**groups
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // max(1, len(distinct)))
    for start in range(0, swaps, block):
        size = min(block, swaps - start)
        if is_exact:
            swapped = np.arange(start, start + size)[:, None] >> np.arange(groups) & 1
        else:
            swapped = generator.binomial(persons, 0.5, (size, len(distinct)))
        found = differences(swapped.astype(float))
        hits[0] += (np.abs(found) >= np.abs(observed) - _ROUNDING).sum(0)
        hits[1] += (found <= observed + _ROUNDING).sum(0)
    two_sided, lower = hits / swaps if is_exact else (hits + 1) / (swaps + 1)
    return two_sided, lower
