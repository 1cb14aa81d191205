"""The batch sampler: which windows make an optimizer step, and which rank computes which of them.

Everything here is a function of the config, the seed and the epoch: no state, so a run can
resume at any step, on any number of ranks, and every rank knows what the others do.

Windows of similar length are grouped, because every token of padding costs as much as a real one.
The number of windows in an optimizer step is always the config's, whatever the number of ranks;
only the last step of an epoch may be smaller.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Shard:
    """One rank's part of an optimizer step.

    Attributes:
        batches: Window indices of each forward pass, longest first.
        weight: 1, or 0 where the step is smaller than the number of ranks and this rank only
            takes part in the gradient exchange.
        step_windows: Windows in the whole step, over all ranks.
    """

    batches: list[Indices]
    weight: float
    step_windows: int


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


def shard_step(
    step: Indices,
    lengths: NDArray[np.int64],
    *,
    rank: int,
    world_size: int,
    batch_tokens: int,
    min_efficient_tokens: int = 0,
) -> Shard:
    """The part of a step that a rank computes; all ranks get nearly the same number of tokens.

    Args:
        batch_tokens: Maximum of padded tokens in a forward pass; a single window may be longer.
        min_efficient_tokens: See `batches_by_length`.
    """
    mine, weight = step[rank::world_size], 1.0
    if not len(mine):
        mine, weight = step[-1:], 0.0
    batches = batches_by_length(
        lengths, mine, batch_tokens, min_efficient_tokens=min_efficient_tokens
    )
    return Shard([*batches], weight, len(step))


def batches_by_length(
    lengths: NDArray[np.int64],
    members: Indices,
    max_tokens: int,
    *,
    min_efficient_tokens: int = 0,
) -> Iterator[Indices]:
    """Divide `members` into batches of similar length, each of at most `max_tokens` padded tokens.

    A window longer than that has a batch of its own. The longest come first, so that what does not
    fit into memory fails at once.

    Args:
        min_efficient_tokens: A batch of at least so many tokens ends where windows get much
            shorter, since padding them would cost more than another forward pass.
    """
    order = members[np.argsort(-lengths[members], kind="stable")]
    sorted_lengths = lengths[order]
    start = 0
    while start < len(order):
        longest = int(sorted_lengths[start])
        end = start + max(1, max_tokens // longest)
        # The first window that is much shorter, but none before the batch is efficient.
        shorter = int(np.searchsorted(-sorted_lengths, -_MUCH_SHORTER * longest, side="right"))
        end = min(end, max(shorter, start + math.ceil(min_efficient_tokens / longest), start + 1))
        yield order[start:end]
        start = end
