"""Statistics of a data source: class shares, lengths, duplicates, how far texts leak their label.

Must not know how they are shown. A *user* is a row of the source. Type mentions are counted in the
posts as written, with the pattern that masking uses; tokens and duplicates across splits are those
of the texts as the model reads them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.examples import (
    Example,
    build_examples,
    count_shared,
    resolve_split_by,
    split_examples,
)
from mbti_ray.data.mask import mentions_in, most_mentioned
from mbti_ray.data.progress import ProgressCallback, no_progress
from mbti_ray.data.sources import Source
from mbti_ray.data.split import SPLITS
from mbti_ray.data.text import preprocess_text
from mbti_ray.data.tokenizer import build_tokenizer, tokenize
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of

_POSTS_AT_ONCE = 1000
_BINS = 20

Mentions = Counter[str]


@dataclass(frozen=True)
class Bin:
    """Number of lengths from `first` to `last`, both included."""

    first: int
    last: int
    count: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of each post or of each user, without special tokens.

    Attributes:
        p90: Like the median and `p99` a length that occurs: the smallest that 90 % do not exceed.
        longer: Share that does not fit into one window of `model.max_tokens`, which also has a
            [CLS] and a [SEP] after each post.
        histogram: Bins of equal width; the last one extends to the maximum.
    """

    min: int
    median: int
    p90: int
    p99: int
    max: int
    longer: float
    histogram: list[Bin]


@dataclass(frozen=True)
class DuplicateCounts:
    """Duplicate posts; the counts across splits are None if the source cannot be split.

    Attributes:
        texts: Distinct texts that occur more than once, compared as written.
        posts: Posts with one of these texts.
        held_out: Posts of the validation and test splits.
        across: Those of them whose text, as written, is also a post of the training split.
        near_across: The same, compared as the model reads them, in lower case, by letters and
            digits only (by the whole text if it has neither). Never below `across`.
    """

    texts: int
    posts: int
    held_out: int | None
    across: int | None
    near_across: int | None


@dataclass(frozen=True)
class Audit:
    """The statistics of one source under one config. Shares are from 0 to 1.

    Attributes:
        rows: Rows of the source; several of one author can be one user.
        authors: Distinct authors; 0 if the source names none.
        bad_rows: Rows that cannot be used, by reason.
        majority: Share of the majority type: the accuracy of always predicting it.
        names_a_type: Share of users with any of the sixteen types in any post.
        names_own_type: Share of users with their own type in any post.
        most_mentioned_rule: Accuracy, over all users, of predicting the type that the posts mention
            most often (the first of equally frequent ones), or the majority type without any.
        most_mentioned_rule_masked: The same after masking; unless equal to `majority`, it leaks.
        type_shares: Of the users, most frequent first.
        pole_shares: Share of users with each of E, N, T, J.
        pos_weight: Negatives / positives over all examples (users or posts, as `data.unit` says) in
            the order E, N, T, J; None without a positive.
        splits: Examples by split, or None.
        split_problem: Why there is no split.
        tokens: Lengths by post and by user.
    """

    source: str
    fingerprint: str
    rows: int
    users: int
    posts: int
    authors: int
    bad_rows: dict[str, int]
    majority: float
    names_a_type: float
    names_own_type: float
    most_mentioned_rule: float
    most_mentioned_rule_masked: float
    type_shares: dict[str, float]
    pole_shares: dict[str, float]
    pos_weight: list[float | None]
    splits: dict[str, int] | None
    split_problem: str | None
    tokens: dict[str, Lengths]
    repeats: DuplicateCounts

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(config: RunConfig, source: Source, *, advance: ProgressCallback = no_progress) -> Audit:
    """The statistics of a labelled source that has rows.

    Args:
        advance: Called with the number of posts tokenized since the last call, and a note.

    Raises:
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    users = source.rows
    own = [row.mbti_type or "" for row in users]
    # Sorted, so that ties between types do not depend on the order of the rows.
    types = Counter(sorted(own, key=TYPES.index)).most_common()
    majority, count = types[0]
    raw = [mentions_in(row.posts) for row in users]
    masked = [
        mentions_in([preprocess_text(p, mask=True, also=config.data.mask_also) for p in row.posts])
        for row in users
    ]
    examples = build_examples(config, users, resolve_split_by(config, source))
    splits, split_problem = _split(config, examples)
    return Audit(
        source=source.name,
        fingerprint=source.fingerprint,
        rows=len(users) + source.merged + len(source.bad),
        users=len(users),
        posts=sum(len(row.posts) for row in users),
        authors=len({row.author for row in users} - {None}),
        bad_rows=dict(Counter(bad.reason for bad in source.bad).most_common()),
        majority=count / len(users),
        names_a_type=sum(map(bool, raw)) / len(users),
        names_own_type=sum(t in m for t, m in zip(own, raw, strict=True)) / len(users),
        most_mentioned_rule=_rule_accuracy(raw, own, majority),
        most_mentioned_rule_masked=_rule_accuracy(masked, own, majority),
        type_shares={t: n / len(users) for t, n in types},
        pole_shares={p: n / len(own) for p, n in _positives(own).items()},
        pos_weight=[
            (len(examples) - n) / n if n else None
            for n in _positives([e.mbti_type for e in examples]).values()
        ],
        splits={name: len(part) for name, part in splits.items()} if splits else None,
        split_problem=split_problem,
        tokens=_tokens(config, examples, [len(row.posts) for row in users], advance),
        repeats=_repeats([p for row in users for p in row.posts], examples, splits),
    )


def _rule_accuracy(mentions: Sequence[Mentions], own: Sequence[str], majority: str) -> float:
    given = [most_mentioned(m) or majority for m in mentions]
    return sum(g == t for g, t in zip(given, own, strict=True)) / len(own)


def _positives(types: Sequence[str]) -> dict[str, int]:
    """Number of the types with each of E, N, T, J."""
    columns = zip(*map(labels_of, types), strict=True)
    return {pole: sum(column) for pole, column in zip(POSITIVE_POLES, columns, strict=True)}


def _split(
    config: RunConfig, examples: Sequence[Example]
) -> tuple[dict[str, list[Example]] | None, str | None]:
    """The split, or why there is none: a source too small to train on still has statistics."""
    try:
        return split_examples(config, examples), None
    except DataError as error:
        return None, str(error)


def _tokens(
    config: RunConfig, examples: Sequence[Example], posts: Sequence[int], advance: ProgressCallback
) -> dict[str, Lengths]:
    """Lengths by post and by user; `posts` is the number of posts of each user, in order."""
    texts = [text for example in examples for text in example.texts]
    tokenizer = build_tokenizer(config.model.encoder, texts)
    counts: list[int] = []
    for start in range(0, len(texts), _POSTS_AT_ONCE):
        part = texts[start : start + _POSTS_AT_ONCE]
        counts += [len(ids) for ids in tokenize(tokenizer, part)]
        advance(len(part), "posts")
    by_post = np.array(counts, np.int64)
    starts = np.cumsum([0, *posts[:-1]])
    by_user = np.add.reduceat(by_post, starts)
    separators = np.add.reduceat((by_post > 0).astype(int), starts)
    capacity = config.model.max_tokens - 1
    return {
        "post": _lengths(by_post, longer=float(np.mean(by_post + 1 > capacity))),
        "user": _lengths(by_user, longer=float(np.mean(by_user + separators > capacity))),
    }


def _lengths(counts: NDArray[np.int64], *, longer: float) -> Lengths:
    levels = np.percentile(counts, [0, 50, 90, 99, 100], method="inverted_cdf")
    least, median, p90, p99, most = (int(level) for level in levels)
    # Otherwise a few very long rows would leave all others in the first bin.
    width = (p99 - least) // _BINS + 1
    firsts = list(range(least, p99 + 1, width))
    lasts = [first - 1 for first in firsts[1:]] + [most]
    found = np.histogram(counts, bins=[*firsts, most + 1])[0]
    bins = [Bin(f, la, int(n)) for f, la, n in zip(firsts, lasts, found, strict=True)]
    return Lengths(least, median, p90, p99, most, longer, bins)


def _repeats(
    raw: Sequence[str],
    examples: Sequence[Example],
    splits: dict[str, list[Example]] | None,
) -> DuplicateCounts:
    repeated = [n for n in Counter(raw).values() if n > 1]
    if splits is None:
        return DuplicateCounts(len(repeated), sum(repeated), None, None, None)
    trained = {(e.number, e.post) for e in splits[SPLITS[0]]}
    in_train = [(e.number, e.post) in trained for e in examples for _ in e.texts]
    pairs = list(zip(raw, in_train, strict=True))
    seen = {text for text, is_trained in pairs if is_trained}
    across = sum(text in seen for text, is_trained in pairs if not is_trained)
    held_out, near_across = count_shared(splits)
    return DuplicateCounts(len(repeated), sum(repeated), held_out, across, near_across)
