"""Which rows are for training, validation and testing: groups, and a stratified split by group.

Owns what must be in one split (the rows of one person, and those that share a text) and that no
group is in two. Must not know what a text means or how it is tokenized. The same rows and seed give
the same splits on every machine, in any row order.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import DataError
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

Indices = NDArray[np.int64]
SPLITS = ("train", "val", "test")

_POLES = [pole for dimension in DIMENSIONS for pole in dimension.letters]
# What is stratified: all rows, each type, each pole; indices into one flat list.
_FEATURES = ("all", *TYPES, *_POLES)
_FEATURES_OF_TYPE = {t: [_FEATURES.index(f) for f in ("all", t, *t)] for t in TYPES}
_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_OTHER_ASCII = bytes(code for code in range(128) if not chr(code).isalnum())
# So many letters and digits are no coincidence. Of real tweets, authors shared none of 24 or more.
COPY_LETTERS = 64
# A shorter text that this many people wrote links only those who wrote nothing of their own.
_COMMON = 25


def assign_splits(
    groups: Sequence[str], types: Sequence[str], *, val_share: float, test_share: float, seed: int
) -> NDArray[np.int8]:
    """The split of each row, as an index into `SPLITS`; all rows of a group get the same one.

    Groups are assigned by size (largest first), then by a hash of seed and name. Each is assigned
    to the split that brings the counts of all rows, of each type and of each pole closest to the
    requested shares (from 0 to 1): where the sum of (have - want)^2 / want grows least. With few
    large groups the shares are approximate; with fewer than three, or a split without any, it is a
    DataError.
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
    """As `assign_splits`, where the test split is a fold, counted from 1, of several equal ones."""
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
    hashes = {group: hashlib.sha256(f"{seed}:{group}".encode()).digest() for group in content}
    for group in sorted(content, key=lambda g: (-sizes[g], hashes[g])):
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


def text_key(text: str) -> str:
    """Equal for near-duplicates: letters and digits in lower case, or the text if it has none."""
    if text.isascii():  # the same, ten times faster
        return text.encode().lower().translate(None, _OTHER_ASCII).decode() or text
    return _NOT_LETTER_OR_DIGIT.sub("", text.casefold()) or text


def group_owners(
    names: Sequence[str],
    owners: Indices,
    text_owners: Indices,
    keys: NDArray[np.uint64],
    is_long: NDArray[np.bool_],
) -> Indices:
    """The group of each owner: the first owner, by name, of those that must be in one split.

    Owners who share a text are one group. But what everybody writes ("thank you") must not make
    one group of all: a text of fewer than 64 letters and digits that n people wrote links those of
    them of whose texts it is a large enough part. Let k be how many texts an owner wrote that
    nobody else did: the owner is linked where 1 / (k + 1) is at least n / 25, or k is 0. Where
    longer texts leave fewer than three groups, or one with more than half of the examples, the same
    holds for them. Groups do not depend on the order of the examples.

    Args:
        names: Of the owners: authors, users or posts.
        owners: The owner of each example: [E].
        text_owners: The owner of each text that may link: [P].
        keys: The hash of each text's `text_key`: [P].
        is_long: Whether it has 64 letters and digits or more: [P].
    """
    ordered = np.sort(keys)
    is_repeated = contains(ordered[1:][ordered[1:] == ordered[:-1]], keys)
    own = np.bincount(text_owners[~is_repeated], minlength=len(names))
    keys, holders, is_long = keys[is_repeated], text_owners[is_repeated], is_long[is_repeated]
    # One line for each text and each owner who wrote it; equal texts are next to each other.
    order = np.lexsort((holders, keys))
    keys, holders, is_long = keys[order], holders[order], is_long[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (holders[1:] != holders[:-1])
    keys, holders, is_long = keys[is_first], holders[is_first], is_long[is_first]
    texts = np.cumsum(np.append(False, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, int)
    written_by = np.bincount(texts)[texts]
    own += np.bincount(holders[written_by == 1], minlength=len(names))
    is_own_enough = own[holders] + 1 <= np.maximum(1, _COMMON / written_by)
    sizes = np.bincount(owners, minlength=len(names))
    limit = max(len(owners) / 2, sizes.max(initial=0))
    rank = np.empty(len(names), np.int64)
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank[by_name] = np.arange(len(names))
    for is_linked in (is_own_enough | is_long, is_own_enough):
        linked, text = holders[is_linked], texts[is_linked]
        is_pair = text[1:] == text[:-1]
        roots = _connect(rank[linked[:-1][is_pair]], rank[linked[1:][is_pair]], len(names))
        group_of = np.array(by_name, np.int64)[roots[rank]]
        groups = np.bincount(group_of, weights=sizes, minlength=len(names))
        if np.count_nonzero(groups) >= 3 and groups.max() <= limit:
            break
    return group_of


def contains(ordered: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which values are in an ordered array; unlike `np.isin` without copies of both."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = ordered[np.searchsorted(ordered[:-1], values)] == values
    return found


def _connect(first: Indices, second: Indices, count: int) -> Indices:
    """The smallest number that each number is linked to, directly or by others."""
    root = np.arange(count).tolist()

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((find(one), find(other)))
        root[high] = low
    return np.fromiter(map(find, range(count)), np.int64, count)
