"""Statistics of a data source: class shares, lengths, duplicates, how far texts leak their label.

Type mentions are counted in the posts as written, with the pattern that masking uses; tokens and
duplicates across splits are those of the texts as the model reads them. Must not know how they are
shown.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.encoded_files import count_tokens
from mbti_ray.data.examples import (
    Examples,
    build_examples,
    count_mentions,
    count_shared,
    resolve_split_by,
    split_examples,
)
from mbti_ray.data.mask import most_mentioned
from mbti_ray.data.processes import MapBatches, ProgressCallback, map_in_process, no_progress
from mbti_ray.data.sources import Source
from mbti_ray.data.split import Indices
from mbti_ray.data.tokenizer import WordTokenizer, build_tokenizer
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES, TYPES, labels_of

_BINS = 20

Mentions = Mapping[int, Counter[str]]


def audit(
    config: RunConfig,
    source: Source,
    *,
    advance: ProgressCallback = no_progress,
    map_batches: MapBatches = map_in_process,
) -> dict[str, Any]:
    """The statistics of a labeled source that has rows, as JSON has them. Shares are from 0 to 1.

    Where the name does not say it:
        rows, users: Several rows of one author can be one user.
        authors: 0 if the source names none.
        bad_rows: Rows that cannot be used, by reason.
        majority: Share of the majority type: the accuracy of always predicting it.
        names_a_type, names_own_type: Share of users with any of the sixteen types, and with their
            own, in any post.
        most_mentioned_rule: Accuracy, over all users, of predicting the type that the posts mention
            most often (the first of equally frequent ones), or the majority type without any.
        most_mentioned_rule_masked: The same after masking; unless equal to `majority`, it leaks.
        type_shares, pole_shares: Of the users; types by frequency, poles E, N, T, J.
        pos_weight: Negatives / positives over all examples (users or posts, as `data.unit` says) in
            the order E, N, T, J; None without a positive.
        splits, split_problem: Examples by split, or why there is none.
        tokens, repeats: See `_lengths` and `_repeats`.
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
    splits, split_problem = None, None
    try:
        splits = split_examples(config, examples)
    except DataError as error:
        # A source that is too small to train on still has statistics.
        split_problem = str(error)
    return {
        "source": source.name,
        "fingerprint": source.fingerprint,
        "rows": len(users) + source.merged + len(source.bad),
        "users": len(users),
        "posts": sum(counts),
        "authors": len({row.author for row in users} - {None}),
        "bad_rows": dict(Counter(bad.reason for bad in source.bad).most_common()),
        "majority": count / len(users),
        "names_a_type": len(raw) / len(users),
        "names_own_type": sum(own[k] in mentions for k, mentions in raw.items()) / len(users),
        "most_mentioned_rule": _rule_accuracy(raw, own, majority),
        "most_mentioned_rule_masked": _rule_accuracy(masked, own, majority),
        "type_shares": {t: n / len(users) for t, n in types},
        "pole_shares": {p: n / len(own) for p, n in _positives(own).items()},
        "pos_weight": [
            (len(examples) - n) / n if n else None for n in _positives(examples.types).values()
        ],
        "splits": {name: len(part) for name, part in splits.items()} if splits else None,
        "split_problem": split_problem,
        "tokens": _tokens(config, examples, offsets, advance, map_batches),
        "repeats": _repeats(examples, splits),
    }


def _rule_accuracy(mentions: Mentions, own: Sequence[str], majority: str) -> float:
    given = [most_mentioned(mentions.get(k, Counter())) or majority for k in range(len(own))]
    return sum(g == t for g, t in zip(given, own, strict=True)) / len(own)


def _positives(types: Sequence[str]) -> dict[str, int]:
    """Number of the types with each of E, N, T, J."""
    columns = zip(*map(labels_of, types), strict=True)
    return {pole: sum(column) for pole, column in zip(POSITIVE_POLES, columns, strict=True)}


def _tokens(
    config: RunConfig,
    examples: Examples,
    offsets: Indices,
    advance: ProgressCallback,
    map_batches: MapBatches,
) -> dict[str, dict[str, Any]]:
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


def _lengths(counts: NDArray[np.int64], *, longer: float) -> dict[str, Any]:
    """The distribution of the tokens of posts or users, without special tokens.

    Percentiles are lengths that occur: `p90` is the smallest that 90 % do not exceed. `longer` is
    the share that does not fit into one window of `model.max_tokens`, which also has a [CLS] and a
    [SEP] after each post. The bins of `histogram` are of equal width (`first` and `last` included);
    the last one extends to the maximum.
    """
    levels = np.percentile(counts, [0, 50, 90, 99, 100], method="inverted_cdf")
    least, median, p90, p99, most = (int(level) for level in levels)
    # Otherwise a few very long rows would leave all others in the first bin.
    width = (p99 - least) // _BINS + 1
    firsts = list(range(least, p99 + 1, width))
    lasts = [first - 1 for first in firsts[1:]] + [most]
    found = np.histogram(counts, bins=[*firsts, most + 1])[0].tolist()
    bins = zip(firsts, lasts, found, strict=True)
    return {
        **{"min": least, "median": median, "p90": p90, "p99": p99, "max": most, "longer": longer},
        "histogram": [{"first": f, "last": la, "count": n} for f, la, n in bins],
    }


def _repeats(examples: Examples, splits: dict[str, Indices] | None) -> dict[str, int | None]:
    """Duplicate posts; the counts across splits are None if the source cannot be split.

    `texts` occur more than once, as written, in so many `posts`. Of the `held_out` posts (val and
    test), those `across` have a text, as written, that is also in train; `near_across` compares
    texts as the model reads them, by letters and digits in lower case, and is never below.
    """
    written = examples.store.numbers("written_key")[examples.places]
    counts = np.unique(written, return_counts=True)[1]
    repeated = counts[counts > 1]
    held_out = across = near_across = None
    if splits is not None:
        held_out, near_across = count_shared(examples, splits)
        _, across = count_shared(examples, splits, "written_key")
    return {
        **{"texts": len(repeated), "posts": int(repeated.sum()), "held_out": held_out},
        **{"across": across, "near_across": near_across},
    }
