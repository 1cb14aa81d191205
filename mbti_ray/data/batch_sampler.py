"""The batch sampler: which windows make an optimizer step, and which rank computes which of them.

Everything here is a function of the config, the seed and the epoch: no state, so a run can
resume at any step, on any number of ranks, and every rank knows what the others do.

Windows of similar length are grouped, because every token of padding costs as much as a real one.
The number of windows in an optimizer step is always the config's, whatever the number of ranks;
only the last step of an epoch may be smaller.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
# Steps whose windows are sorted together: wide enough for little padding (1.7 % on tweets in steps
# of 32; 64 steps gave 5.8 %), narrow enough that a step mixes other windows in each epoch.
_POOL_STEPS = 256
# A window below this share of the longest one's length is much shorter.
_MUCH_SHORTER = 0.9
# Tokens from which a forward pass is worth its fixed cost, by the kind of device.
MIN_EFFICIENT_TOKENS = {"cpu": 512, "cuda": 8192}


def length_grouped_steps(
    lengths: NDArray[np.int64], step_size: int, *, seed: int, epoch: int
) -> list[Indices]:
    """The window indices of every optimizer step of an epoch, each step sorted longest first."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    steps: list[Indices] = []
    pool = step_size * _POOL_STEPS
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        # Stable: windows of the same length keep their shuffled order.
        members = members[np.argsort(-lengths[members], kind="stable")]
        steps += [members[i : i + step_size] for i in range(0, len(members), step_size)]
    return [steps[i] for i in random.permutation(len(steps))]


def shard(step: Indices, *, rank: int, world_size: int) -> tuple[Indices, float]:
    """A rank's windows of a step, and their weight; all ranks get nearly the same tokens.

    The weight is 0 where the step is smaller than the number of ranks, and this rank computes a
    window only to take part in the gradient exchange.
    """
    mine = step[rank::world_size]
    return (mine, 1.0) if len(mine) else (step[-1:], 0.0)


def batches_by_length(
    lengths: NDArray[np.int64], members: Indices, max_tokens: int, *, min_efficient_tokens: int = 0
) -> Iterator[Indices]:
    """Divide `members` into batches of similar length, each of at most `max_tokens` padded tokens.

    A window longer than that has a batch of its own. The longest come first, so that what does not
    fit into memory fails at once. A batch of at least `min_efficient_tokens` ends where windows get
    much shorter, since padding them would cost more than another forward pass; not where padding
    all the rest costs less.
    """
    order = members[np.argsort(-lengths[members], kind="stable")]
    sorted_lengths = lengths[order]
    start = 0
    while start < len(order):
        longest = int(sorted_lengths[start])
        most = start + max(1, max_tokens // longest)
        # The first window that is much shorter, but none before the batch is efficient.
        shorter = int(np.searchsorted(-sorted_lengths, -_MUCH_SHORTER * longest, side="right"))
        end = min(most, max(shorter, start + math.ceil(min_efficient_tokens / longest), start + 1))
        rest = sorted_lengths[end:]
        if len(order) <= most and 2 * (longest - rest).sum() < min_efficient_tokens:
            end = len(order)
        yield order[start:end]
        start = end
