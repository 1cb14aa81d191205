"""Which examples must be in one split: those of one person, and those that share a text.

Must not know how a split is made, or what a text means.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

_NOT_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_OTHER_ASCII = bytes(code for code in range(128) if not chr(code).isalnum())
# So many letters and digits are no coincidence. Of real tweets, authors shared none of 24 or more.
_COPY_LETTERS = 64
# A shorter text that this many people wrote links only those who wrote nothing of their own.
_COMMON = 25


def text_key(text: str) -> str:
    """Equal for near-duplicates: letters and digits in lower case, or the text if it has none."""
    if text.isascii():  # the same, ten times faster
        return text.encode().lower().translate(None, _OTHER_ASCII).decode() or text
    return _NOT_LETTER_OR_DIGIT.sub("", text.casefold()) or text


def group_examples(persons: Sequence[str], texts: Sequence[Iterable[str]]) -> list[str]:
    """The group of each example, given its person and its texts as the model reads them.

    Persons who share a text are one group. But what everybody writes ("thank you") must not make
    one group of all: a text of fewer than 64 letters and digits that n people wrote links those of
    them of whose texts it is a large enough part. Let k be how many texts a person wrote that
    nobody else did: the person is linked where 1 / (k + 1) is at least n / 25, or k is 0. Where
    longer texts leave fewer than three groups, or one with more than half of the examples, the same
    holds for them. Groups do not depend on the order of the examples.
    """
    sizes = Counter(persons)
    holders: defaultdict[str, set[str]] = defaultdict(set)
    for person, written in zip(persons, texts, strict=True):
        for text in written:
            holders[text_key(text)].add(person)
    own = Counter(person for by in holders.values() if len(by) == 1 for person in by)
    limit = max([len(persons) / 2, *sizes.values()])
    for copy_letters in (_COPY_LETTERS, math.inf):
        links = (
            [p for p in by if len(key) >= copy_letters or own[p] + 1 <= max(1, _COMMON / len(by))]
            for key, by in holders.items()
        )
        group_of = _connect(sizes, links)
        groups = Counter(group_of[person] for person in persons)
        if len(groups) >= 3 and max(groups.values()) <= limit:
            break
    return [group_of[person] for person in persons]


def _connect(names: Iterable[str], links: Iterable[Sequence[str]]) -> dict[str, str]:
    """The first name, in alphabetical order, of those that each name is linked to."""
    root = {name: name for name in names}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for linked in links:
        for name in linked[1:]:
            first, second = sorted((find(linked[0]), find(name)))
            root[second] = first
    return {name: find(name) for name in root}
