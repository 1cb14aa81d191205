"""Statistics of a data source: class shares, lengths, duplicates, how far texts leak their label.

Type mentions are counted in the posts as written, with the pattern that masking uses; tokens and
duplicates across splits are those of the texts as the model reads them. Must not know how they are
shown.
"""

from collections import Counter
from functools import partial
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
    split_examples,
)
from mbti_ray.data.mask import most_mentioned
from mbti_ray.data.processes import MapBatches, ProgressCallback, map_in_process, no_progress
from mbti_ray.data.sources import Source
from mbti_ray.data.split import Indices
from mbti_ray.data.stored_rows import StoredRows
from mbti_ray.data.tokenizer import WordTokenizer, build_tokenizer
from mbti_ray.errors import DataError
from mbti_ray.typology import POSITIVE_POLES, TYPES

_BINS = 20


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
    examples = build_examples(config, source.rows)
    users = examples.rows
    frequency = np.bincount(users.types, minlength=len(TYPES))
    # Ties between types do not depend on the order of the rows.
    types = [int(k) for k in np.argsort(-frequency, kind="stable") if frequency[k]]
    majority = types[0]
    names_any, names_own, rule = _mention_shares(users, "mentions", majority)
    *_, rule_masked = _mention_shares(users, "masked_mentions", majority)
    positives = users.labels[examples.row].sum(0, dtype=int).tolist()
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
        "posts": int(users.posts.totals.sum()),
        "authors": len(np.unique(users.author[users.author >= 0])),
        "bad_rows": dict(Counter(bad.reason for bad in source.bad).most_common()),
        "majority": int(frequency[majority]) / len(users),
        "names_a_type": names_any,
        "names_own_type": names_own,
        "most_mentioned_rule": rule,
        "most_mentioned_rule_masked": rule_masked,
        "type_shares": {TYPES[k]: int(frequency[k]) / len(users) for k in types},
        "pole_shares": dict(zip(POSITIVE_POLES, users.labels.mean(0).tolist(), strict=True)),
        "pos_weight": [(len(examples) - n) / n if n else None for n in positives],
        "splits": {name: len(part) for name, part in splits.items()} if splits else None,
        "split_problem": split_problem,
        "tokens": _tokens(config, examples, advance, map_batches),
        "repeats": _repeats(examples, splits),
    }


def _mention_shares(users: StoredRows, column: str, majority: int) -> tuple[float, float, float]:
    """The shares of users who mention any type, or their own; the accuracy of the rule."""
    given = np.full(len(users), majority)
    names_any = names_own = 0
    for k, mentions in count_mentions(users.posts, column):
        given[k] = TYPES.index(most_mentioned(mentions) or "")
        names_any += 1
        names_own += TYPES[users.types[k]] in mentions
    right = int(np.count_nonzero(given == users.types))
    return names_any / len(users), names_own / len(users), right / len(users)


def _tokens(
    config: RunConfig,
    examples: Examples,
    advance: ProgressCallback,
    map_batches: MapBatches,
) -> dict[str, dict[str, Any]]:
    """Lengths by post and by user."""
    everything, posts = np.arange(len(examples)), examples.posts
    tokenizer = build_tokenizer(config.model.encoder, examples.texts(everything))
    count = partial(count_tokens, tokenizer=WordTokenizer.of(tokenizer))
    parts = ([*examples.texts(part)] for part in posts.batches(everything))
    counts = []
    for found in map_batches(count, parts):
        counts.append(found)
        advance(len(found), "posts")
    totals = examples.rows.posts.totals
    by_post, starts = np.concatenate(counts), np.cumsum(totals) - totals
    by_user = np.add.reduceat(by_post, starts)
    separators = np.add.reduceat((by_post > 0).astype(int), starts)
    capacity = config.model.max_tokens - 1
    return {
        "post": _lengths(by_post, longer=float(np.mean(by_post >= capacity))),
        "user": _lengths(by_user, longer=float(np.mean(by_user + separators > capacity))),
    }


def _lengths(counts: NDArray[np.int32], *, longer: float) -> dict[str, Any]:
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
    texts = repeated = 0
    for places, keys in examples.posts.store.repeated("written_key"):
        counts = np.unique(keys[examples.posts.owners(places) >= 0], return_counts=True)[1]
        texts += int(np.count_nonzero(counts > 1))
        repeated += int(counts[counts > 1].sum())
    held_out = across = near_across = None
    if splits is not None:
        held_out, near_across = count_shared(examples, splits)
        _, across = count_shared(examples, splits, "written_key")
    return {
        **{"texts": texts, "posts": repeated, "held_out": held_out},
        **{"across": across, "near_across": near_across},
    }
