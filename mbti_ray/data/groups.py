"""Which examples must be in one split: those of one person, and those that share a text.

Must not know how a split is made, or what a text means.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_OTHER_ASCII = bytes(code for code in range(128) if not chr(code).isalnum())
# So many letters and digits are no coincidence. Of real tweets, authors shared none of 24 or more.
COPY_LETTERS = 64
# A shorter text that this many people wrote links only those who wrote nothing of their own.
_COMMON = 25


def text_key(text: str) -> str:
    """Equal for near-duplicates: letters and digits in lower case, or the text if it has none."""
    if text.isascii():  # the same, ten times faster
        return text.encode().lower().translate(None, _OTHER_ASCII).decode() or text
    return _NOT_LETTER_OR_DIGIT.sub("", text.casefold()) or text


def group_owners(
    names: Sequence[str],
    owners: NDArray[np.int64],
    text_owners: NDArray[np.int64],
    keys: NDArray[np.uint64],
    is_long: NDArray[np.bool_],
) -> NDArray[np.int64]:
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


def _connect(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> NDArray[np.int64]:
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
