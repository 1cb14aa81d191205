"""Statistics of a data source: class shares, lengths, duplicates, how far texts leak their label.

Must not know how they are shown. A *user* is a row of the source. Type mentions are counted in the
posts as written, with the pattern that masking uses; tokens and duplicates across splits are those
of the texts as the model reads them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.encoded_files import count_tokens
from mbti_ray.data.examples import (
    Examples,
    Indices,
    build_examples,
    count_mentions,
    count_shared,
    resolve_split_by,
    split_examples,
)
from mbti_ray.data.mask import most_mentioned
from mbti_ray.data.processes import MapBatches, map_here
from mbti_ray.data.progress import ProgressCallback, no_progress
from mbti_ray.data.sources import Source
from mbti_ray.data.tokenizer import build_tokenizer
from mbti_ray.data.word_tokenizer import WordTokenizer
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of

_BINS = 20

Mentions = Mapping[int, Counter[str]]


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


def audit(
    config: RunConfig,
    source: Source,
    *,
    advance: ProgressCallback = no_progress,
    map_batches: MapBatches = map_here,
) -> Audit:
    """The statistics of a labelled source that has rows.

    Args:
        advance: Called with the number of posts tokenized since the last call, and a note.
        map_batches: Where batches of posts are tokenized.

    Raises:
        ConfigError: The encoder's tokenizer cannot be loaded.
    """
    users = source.rows
    own = [row.mbti_type or "" for row in users]
    # Sorted, so that ties between types do not depend on the order of the rows.
    types = Counter(sorted(own, key=TYPES.index)).most_common()
    majority, count = types[0]
    examples = build_examples(config, users, resolve_split_by(config, source))
    counts = [len(row.posts) for row in users]
    offsets = np.append(0, np.cumsum(counts))
    raw, masked = (
        dict(count_mentions(examples.store, column, examples.places, offsets))
        for column in ("mentions", "masked_mentions")
    )
    splits, split_problem = _split(config, examples)
    return Audit(
        source=source.name,
        fingerprint=source.fingerprint,
        rows=len(users) + source.merged + len(source.bad),
        users=len(users),
        posts=sum(counts),
        authors=len({row.author for row in users} - {None}),
        bad_rows=dict(Counter(bad.reason for bad in source.bad).most_common()),
        majority=count / len(users),
        names_a_type=len(raw) / len(users),
        names_own_type=sum(own[k] in mentions for k, mentions in raw.items()) / len(users),
        most_mentioned_rule=_rule_accuracy(raw, own, majority),
        most_mentioned_rule_masked=_rule_accuracy(masked, own, majority),
        type_shares={t: n / len(users) for t, n in types},
        pole_shares={p: n / len(own) for p, n in _positives(own).items()},
        pos_weight=[
            (len(examples) - n) / n if n else None for n in _positives(examples.types).values()
        ],
        splits={name: len(part) for name, part in splits.items()} if splits else None,
        split_problem=split_problem,
        tokens=_tokens(config, examples, offsets, advance, map_batches),
        repeats=_repeats(examples, splits),
    )


def _rule_accuracy(mentions: Mentions, own: Sequence[str], majority: str) -> float:
    given = [most_mentioned(mentions.get(k, Counter())) or majority for k in range(len(own))]
    return sum(g == t for g, t in zip(given, own, strict=True)) / len(own)


def _positives(types: Sequence[str]) -> dict[str, int]:
    """Number of the types with each of E, N, T, J."""
    columns = zip(*map(labels_of, types), strict=True)
    return {pole: sum(column) for pole, column in zip(POSITIVE_POLES, columns, strict=True)}


def _split(config: RunConfig, examples: Examples) -> tuple[dict[str, Indices] | None, str | None]:
    """The split, or why there is none: a source too small to train on still has statistics."""
    try:
        return split_examples(config, examples), None
    except DataError as error:
        return None, str(error)


def _tokens(
    config: RunConfig,
    examples: Examples,
    offsets: Indices,
    advance: ProgressCallback,
    map_batches: MapBatches,
) -> dict[str, Lengths]:
    """Lengths by post and by user; `offsets` are those of the users in the posts, in order."""
    everything = np.arange(len(examples))
    tokenizer = build_tokenizer(config.model.encoder, examples.all_texts(everything))
    count = partial(count_tokens, tokenizer=WordTokenizer.of(tokenizer))
    parts = ([*chain.from_iterable(examples.texts(part))] for part in examples.batches(everything))
    counts = []
    for found in map_batches(count, parts):
        counts.append(found)
        advance(len(found), "posts")
    by_post, starts = np.concatenate(counts), offsets[:-1]
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


def _repeats(examples: Examples, splits: dict[str, Indices] | None) -> DuplicateCounts:
    written = examples.store.numbers("written_key")[examples.places]
    counts = np.unique(written, return_counts=True)[1]
    repeated = counts[counts > 1]
    found = (len(repeated), int(repeated.sum()))
    if splits is None:
        return DuplicateCounts(*found, None, None, None)
    held_out, near_across = count_shared(examples, splits)
    return DuplicateCounts(
        *found, held_out, count_shared(examples, splits, "written_key")[1], near_across
    )
