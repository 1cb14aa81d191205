"""Which rows are for training, validation and testing: a stratified split by group.

Owns that no group is in two splits. Must not know how groups are made, what a text says or how it
is tokenized. The same rows and seed give the same splits on every machine, in any row order.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import DataError
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

SPLITS = ("train", "val", "test")

_POLES = [pole for dimension in DIMENSIONS for pole in dimension.letters]
# What is stratified: all rows, each type, each pole; indices into one flat list.
_FEATURES = ("all", *TYPES, *_POLES)
_FEATURES_OF_TYPE = {t: [_FEATURES.index(f) for f in ("all", t, *t)] for t in TYPES}


def assign_splits(
    groups: Sequence[str],
    types: Sequence[str],
    *,
    val_share: float,
    test_share: float,
    seed: int,
) -> NDArray[np.int8]:
    """The split of each row, as an index into `SPLITS`; all rows of a group get the same one.

    Groups are assigned by size (largest first), then by a hash of seed and name. Each is assigned
    to the split that brings the counts of all rows, of each type and of each pole closest to the
    requested shares: where the sum of (have - want)^2 / want grows least. With few large groups
    the shares are approximate.

    Args:
        groups: Key of each row: rows with equal keys are in the same split.
        types: Type of each row.
        val_share: Share of the rows for validation, 0 to 1.
        test_share: Share of the rows for testing, 0 to 1.
        seed: Breaks ties between groups of one size; another seed gives another split.

    Raises:
        DataError: There are fewer than three groups, or too few for every split to get one.
    """
    content = _contents(groups, types)
    if len(content) < len(SPLITS):
        raise DataError(
            f"{len(content)} groups of rows cannot be split into {', '.join(SPLITS)}; "
            "needed: 3 or more (another data.split_by, or more data)"
        )
    shares = (1 - val_share - test_share, val_share, test_share)
    split_of = _place(content, types, shares, seed)
    for split, (name, share) in enumerate(zip(SPLITS, shares, strict=True)):
        if split not in split_of.values():
            raise DataError(
                f"{len(content)} groups of rows leave {name} empty at a share of {share:g}; "
                "raise data.val_share and data.test_share, or use more data"
            )
    return np.fromiter((split_of[g] for g in groups), dtype=np.int8, count=len(groups))


def assign_fold(
    groups: Sequence[str],
    types: Sequence[str],
    *,
    folds: int,
    fold: int,
    val_share: float,
    seed: int,
) -> NDArray[np.int8]:
    """As `assign_splits`, where the test split is one fold (counted from 1) of several.

    The folds are equal shares, assigned like splits; of the other folds, rows for validation.

    Raises:
        DataError: There are fewer groups than folds and a validation split.
    """
    content = _contents(groups, types)
    if len(content) <= folds:
        raise DataError(
            f"{len(content)} groups of rows cannot be divided into data.folds={folds} and a "
            f"validation split; needed: {folds + 1} or more"
        )
    fold_of = _place(content, types, [1 / folds] * folds, seed)
    rest = {group: counts for group, counts in content.items() if fold_of[group] != fold - 1}
    of_rest = [t for g, t in zip(groups, types, strict=True) if g in rest]
    share = val_share * folds / (folds - 1)
    is_val = _place(rest, of_rest, [1 - share, share], seed)
    if not any(is_val.values()):
        raise DataError(
            f"{len(rest)} groups of rows leave val empty at a share of {val_share:g}; raise "
            "data.val_share, or use more data"
        )
    test = SPLITS.index("test")
    return np.fromiter((is_val.get(g, test) for g in groups), dtype=np.int8, count=len(groups))


def _contents(groups: Sequence[str], types: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many rows of each type each group has."""
    content: dict[str, dict[str, int]] = {}
    for group, mbti_type in zip(groups, types, strict=True):
        counts = content.setdefault(group, {})
        counts[mbti_type] = counts.get(mbti_type, 0) + 1
    for mbti_type in set(types) - set(TYPES):
        labels_of(mbti_type)
        raise DataError(f'type "{mbti_type}" is not written in upper case')
    return content


def _place(
    content: dict[str, dict[str, int]], types: Sequence[str], shares: Sequence[float], seed: int
) -> dict[str, int]:
    """The split of each group."""
    sizes = {group: sum(counts.values()) for group, counts in content.items()}
    totals = dict(_features(_signature(Counter(types))))
    # have - want, by split and feature. Groups are indivisible, so a count may be off by the
    # largest of them: `scale` keeps rare types from pushing all large groups into train.
    largest = max(sizes.values())
    off = [[-share * totals.get(f, 0) for f in range(len(_FEATURES))] for share in shares]
    scale = [[max(-missing, largest) for missing in row] for row in off]
    split_of: dict[str, int] = {}
    for group in sorted(content, key=lambda g: (-sizes[g], _shuffle_key(seed, g))):
        features = _features(_signature(content[group]))
        costs = [
            sum(n * (2 * off_s[f] + n) / scale_s[f] for f, n in features)
            for off_s, scale_s in zip(off, scale, strict=True)
        ]
        split = costs.index(min(costs))
        split_of[group] = split
        for f, n in features:
            off[split][f] += n
    return split_of


def _signature(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(counts.items()) if len(counts) == 1 else tuple(sorted(counts.items()))


@lru_cache(maxsize=4096)
def _features(signature: tuple[tuple[str, int], ...]) -> tuple[tuple[int, int], ...]:
    """Feature indices and row counts, sorted so that sums round equally on every machine."""
    features: Counter[int] = Counter()
    for mbti_type, rows in signature:
        for f in _FEATURES_OF_TYPE[mbti_type]:
            features[f] += rows
    return tuple(sorted(features.items()))


def _shuffle_key(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
