"""Which rows are for training, validation and testing: groups, and a stratified split by group.

Owns what must be in one split (the rows of one person, and those that share a text) and that no
group is in two. Must not know what a text means or how it is tokenized. The same rows and seed give
the same splits on every machine, in any row order.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import DataError, counted
from mbti_ray.typology import DIMENSIONS, TYPES

Indices = NDArray[np.int64]
# As NumPy keeps them, without a Python object for each.
Strings = NDArray[Any]
SPLITS = ("train", "val", "test")

_POLES = [pole for dimension in DIMENSIONS for pole in dimension.letters]
# What is stratified: all rows, each type, each pole; indices into one flat list.
_FEATURES = ("all", *TYPES, *_POLES)
_FEATURES_OF_TYPE = [[_FEATURES.index(f) for f in ("all", t, *t)] for t in TYPES]
_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_OTHER_ASCII = bytes(code for code in range(128) if not chr(code).isalnum())
# So many letters and digits are no coincidence. Of real tweets, authors shared none of 24 or more.
COPY_LETTERS = 64
# A shorter text that this many people wrote links only those who wrote nothing of their own.
_COMMON = 25


def assign_splits(
    groups: Indices,
    types: NDArray[np.int8],
    names: Strings,
    *,
    val_share: float,
    test_share: float,
    seed: int,
    folds: int | None = None,
    fold: int = 1,
) -> NDArray[np.int8]:
    """The split of each row, as an index into `SPLITS`; all rows of a group get the same one.

    Groups are assigned by size (largest first), then by a hash of seed and name. Each is assigned
    to the split that brings the counts of all rows, of each type and of each pole closest to the
    requested shares (from 0 to 1): where the sum of (have - want)^2 / want grows least. With few
    large groups the shares are approximate; with too few, or a split without any, it is a
    DataError.

    Args:
        groups: The group of each row, an index in `names`: [E].
        types: The type of each row, an index in `TYPES`: [E].
        folds: So many equal parts, of which one is the test split: `fold`, counted from 1.
    """
    count, needed = len(np.unique(groups)), folds + 1 if folds else len(SPLITS)
    if count < needed:
        into = f"data.folds={folds} and a validation split" if folds else ", ".join(SPLITS)
        raise DataError(
            f"{counted(count, 'group')} of rows cannot be split into {into}; "
            f"needed: {needed} or more (another data.split_by, or more data)"
        )
    shares = (1 - val_share - test_share, val_share, test_share)
    if folds:
        is_rest = _place(groups, types, names, [1 / folds] * folds, seed)[groups] != fold - 1
        share = val_share * folds / (folds - 1)
        split_of = _place(groups[is_rest], types[is_rest], names, [1 - share, share], seed)
        split_of[split_of < 0] = SPLITS.index("test")
    else:
        split_of = _place(groups, types, names, shares, seed)
    for split, (name, share) in enumerate(zip(SPLITS, shares, strict=True)):
        if split not in split_of:
            raise DataError(
                f"{count} groups of rows leave {name} empty at a share of {share:g}; "
                "raise data.val_share and data.test_share, or use more data"
            )
    return split_of[groups]


def _place(
    groups: Indices,
    types: NDArray[np.int8],
    names: Strings,
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.int8]:
    """The split of each group, as an index in `shares`; -1 for a group without rows."""
    found, counts = np.unique(groups * len(TYPES) + types, return_counts=True)
    placed, starts = np.unique(found // len(TYPES), return_index=True)
    ends, sizes = np.append(starts[1:], len(found)), np.add.reduceat(counts, starts)
    totals = dict(_features(tuple(enumerate(np.bincount(types).tolist()))))
    # have - want, by split and feature. Groups are indivisible, so a count may be off by the
    # largest of them: `scale` keeps rare types from pushing all large groups into train.
    largest = int(sizes.max())
    off = [[-share * totals.get(f, 0) for f in range(len(_FEATURES))] for share in shares]
    scale = [[max(-missing, largest) for missing in row] for row in off]
    split_of = np.full(len(names), -1, np.int8)
    hashes = [hashlib.sha256(f"{seed}:{names[group]}".encode()).digest()[:8] for group in placed]
    order = np.lexsort((np.frombuffer(b"".join(hashes), ">u8"), -sizes))
    for k in order.tolist():
        own = found[starts[k] : ends[k]] % len(TYPES), counts[starts[k] : ends[k]]
        features = _features(tuple(zip(*(part.tolist() for part in own), strict=True)))
        costs = [
            sum(n * (2 * off_s[f] + n) / scale_s[f] for f, n in features)
            for off_s, scale_s in zip(off, scale, strict=True)
        ]
        split = costs.index(min(costs))
        split_of[placed[k]] = split
        for f, n in features:
            off[split][f] += n
    return split_of


@lru_cache(maxsize=4096)
def _features(counts: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Feature indices and row counts, sorted so that sums round equally on every machine.

    From the types (indices in `TYPES`) with their counts, ascending.
    """
    features: Counter[int] = Counter()
    for mbti_type, rows in counts:
        for f in _FEATURES_OF_TYPE[mbti_type]:
            features[f] += rows
    return tuple(sorted(features.items()))


def text_key(text: str) -> str:
    """Equal for near-duplicates: letters and digits in lower case, or the text if it has none."""
    if text.isascii():  # the same, ten times faster
        return text.encode().lower().translate(None, _OTHER_ASCII).decode() or text
    return _NOT_LETTER_OR_DIGIT.sub("", text.casefold()) or text


def group_owners(
    owners: Indices,
    written: Indices,
    copies: Callable[[], Iterable[tuple[Indices, NDArray[np.uint64], NDArray[np.bool_]]]],
) -> Indices:
    """The group of each owner: the first one of those that must be in one split.

    Owners who share a text are one group. But what everybody writes ("thank you") must not make
    one group of all: a text of fewer than 64 letters and digits that n people wrote links those of
    them of whose texts it is a large enough part. Let k be how many texts an owner wrote that
    nobody else did: the owner is linked where 1 / (k + 1) is at least n / 25, or k is 0. Where
    longer texts leave fewer than three groups, or one with more than half of the examples, the same
    holds for them. Groups do not depend on the order of the examples.

    Args:
        owners: The owner of each example (an author, user or post): [E].
        written: How many texts each owner wrote: [O].
        copies: The texts that may occur more than once, in parts with all equal ones: the owner of
            each, the hash of its `text_key`, whether it has 64 letters and digits or more: [P].
    """
    own, count = written.copy(), len(written)
    for holders, keys, is_long in copies():
        own -= np.bincount(holders, minlength=count)
        holders, _, written_by, _ = _holders_of_texts(holders, keys, is_long)
        own += np.bincount(holders[written_by == 1], minlength=count)
    sizes = np.bincount(owners, minlength=count)
    limit = max(len(owners) / 2, sizes.max(initial=0))
    for are_long_linked in (True, False):
        group_of = np.arange(count)
        for part in copies():
            holders, is_next, written_by, is_long = _holders_of_texts(*part)
            is_linked = own[holders] + 1 <= np.maximum(1, _COMMON / written_by)
            if are_long_linked:
                is_linked |= is_long
            text = np.cumsum(is_next)[is_linked]
            linked = group_of[holders[is_linked]]
            # Most texts connect groups that others have connected already.
            is_pair = (text[1:] == text[:-1]) & (linked[1:] != linked[:-1])
            group_of = _connect(linked[:-1][is_pair], linked[1:][is_pair], count)[group_of]
        groups = np.bincount(group_of, weights=sizes, minlength=count)
        if np.count_nonzero(groups) >= 3 and groups.max() <= limit:
            break
    return group_of


def _holders_of_texts(
    holders: Indices, keys: NDArray[np.uint64], is_long: NDArray[np.bool_]
) -> tuple[Indices, NDArray[np.bool_], Indices, NDArray[np.bool_]]:
    """A line for each text and each owner who wrote it, those of one text next to each other.

    The owner, whether another text begins, how many owners wrote it, and whether it is long.
    """
    order = np.lexsort((holders, keys))
    keys, holders = keys[order], holders[order]
    is_next = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    is_first = is_next | np.append(True, holders[1:] != holders[:-1])[: len(keys)]
    is_next = is_next[is_first]
    text = np.cumsum(is_next) - 1
    return holders[is_first], is_next, np.bincount(text)[text], is_long[order[is_first]]


def contains(ordered: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which values are in an ordered array; unlike `np.isin` without copies of both."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = ordered[np.searchsorted(ordered[:-1], values)] == values
    return found


def _connect(first: Indices, second: Indices, count: int) -> Indices:
    """The smallest number that each number is linked to, directly or by others."""
    linked, places = np.unique(np.append(first, second), return_inverse=True)
    root = [*range(len(linked))]

    def find(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    for one, other in zip(*places.reshape(2, -1).tolist(), strict=True):
        low, high = sorted((find(one), find(other)))
        root[high] = low
    smallest = np.arange(count)
    smallest[linked] = linked[np.fromiter(map(find, root), np.int64, len(root))]
    return smallest
