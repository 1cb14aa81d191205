"""From the rows of a source to examples: preprocessed texts with labels, groups and a split.

Owns what an example is (a user or a post). Must not know of file formats, tokens or tensors.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.mask import most_mentioned
from mbti_ray.data.posts import PostStore, StoredPosts, hash_parts
from mbti_ray.data.readers import BUILTIN
from mbti_ray.data.rows import Row, Shares
from mbti_ray.data.sources import Source, store_rows
from mbti_ray.data.split import SPLITS, Indices, assign_fold, assign_splits, contains, group_owners
from mbti_ray.errors import DataError
from mbti_ray.typology import TYPES

# Posts whose texts are in memory at once.
_POSTS_AT_ONCE = 2048


@dataclass(frozen=True)
class Example:
    """One training example: a user or a post, as `data.unit` says.

    Attributes:
        texts: What the model reads: one text for each post, cleaned and masked.
        person: Who wrote it: the author if the source names one, else the user.
        mentioned: The type that the texts mention most often before masking, if any.
        number, shares: As in `Row`.
        post: Index among the posts of its row; -1 for a whole user.
    """

    texts: tuple[str, ...]
    mbti_type: str
    person: str
    mentioned: str | None
    number: int
    post: int
    shares: Shares | None = None

    def own_posts(self, posts: Mapping[int, Sequence[str]]) -> Sequence[str]:
        """Its posts, of those of all rows by number."""
        of_row = posts[self.number]
        return of_row if self.post < 0 else of_row[self.post : self.post + 1]


@dataclass(frozen=True)
class Examples:
    """E examples with P posts, in the order of the source; their texts are read when asked for.

    Attributes:
        rows: The rows they come from, one each or one for several.
        row: Index of each one's row: [E].
        post: As `Example.post`: [E].
        store: Has what is known of the posts.
        places: Of the posts in the store, example after example: [P].
        offsets: Start of each example in `places`, and the end of the last: [E + 1].
        persons: `Example.person` of each row.
        group: Index in `groups`: [E].
        mentioned: Index in `TYPES` of the type mentioned most often before masking, or -1: [E].
    """

    rows: Sequence[Row]
    row: Indices
    post: Indices
    store: PostStore
    places: Indices
    offsets: Indices
    persons: Sequence[str]
    group: Indices
    groups: Sequence[str]
    mentioned: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.row)

    def __iter__(self) -> Iterator[Example]:
        for part in self.batches(np.arange(len(self))):
            yield from self.take(part)

    def take(self, indices: Indices) -> list[Example]:
        """Some of the examples, with their texts."""
        return [
            Example(
                texts=tuple(texts),
                mbti_type=(row := self.rows[self.row[i]]).mbti_type or "",
                person=self.persons[self.row[i]],
                mentioned=TYPES[self.mentioned[i]] if self.mentioned[i] >= 0 else None,
                number=row.number,
                post=int(self.post[i]),
                shares=row.shares,
            )
            for i, texts in zip(indices.tolist(), self.texts(indices), strict=True)
        ]

    def texts(self, indices: Indices) -> list[list[str]]:
        """What the model reads of some examples."""
        read = iter(self.store.read("text", self.places[self.posts_of(indices)]))
        counts = (self.offsets[indices + 1] - self.offsets[indices]).tolist()
        return [[next(read) for _ in range(count)] for count in counts]

    def all_texts(self, indices: Indices) -> Iterator[str]:
        """What the model reads of some examples, one text for each post, a part at a time."""
        for part in self.batches(indices):
            yield from chain.from_iterable(self.texts(part))

    def posts_of(self, indices: Indices) -> Indices:
        """The indices in `places` of the posts of some examples."""
        starts, ends = self.offsets[indices], self.offsets[indices + 1]
        counts = ends - starts
        before = np.cumsum(counts) - counts
        places: Indices = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        return places

    def batches(self, indices: Indices) -> Iterator[Indices]:
        """Examples in parts of some thousand posts each."""
        ends = np.cumsum(self.offsets[indices + 1] - self.offsets[indices])
        start = 0
        while start < len(indices):
            done = ends[start - 1] if start else 0
            end = int(np.searchsorted(ends, done + _POSTS_AT_ONCE, side="right"))
            yield indices[start : max(end, start + 1)]
            start = max(end, start + 1)

    @property
    def types(self) -> list[str]:
        """`Example.mbti_type` of each."""
        types = [row.mbti_type or "" for row in self.rows]
        return [types[row] for row in self.row.tolist()]


def count_mentions(
    store: PostStore, column: str, places: Indices, offsets: Indices
) -> Iterator[tuple[int, Counter[str]]]:
    """How often each type is mentioned in the posts between two offsets, where any is.

    In the order of first mention, with the index of the first offset.
    """
    found = np.flatnonzero(store.numbers(column)[places])
    owners = np.searchsorted(offsets, found, side="right") - 1
    mentions = store.read(column, places[found])
    pairs = zip(owners.tolist(), mentions, strict=True)
    for owner, of_owner in groupby(pairs, key=itemgetter(0)):
        yield owner, Counter(TYPES[place] for _, each in of_owner for place in each)


def resolve_split_by(config: RunConfig, source: Source) -> str:
    """`data.split_by`; for auto, author if the source names any, else user."""
    split_by = config.data.split_by
    return person_kind(source.rows) if split_by == "auto" else split_by


def build_examples(config: RunConfig, rows: Sequence[Row], split_by: str) -> Examples:
    """The examples in the rows, in the order of the source."""
    rows = store_rows(rows, config.data)
    parts = [row.posts for row in rows if isinstance(row.posts, StoredPosts)]
    store = parts[0].store if parts else PostStore()
    places = np.concatenate([np.zeros(0, np.int64), *(part.places for part in parts)])
    counts = np.array([len(part) for part in parts], np.int64)
    if config.data.unit == "user":
        row, post = np.arange(len(rows)), np.full(len(rows), -1)
        offsets = np.append(0, np.cumsum(counts))
    else:
        row = np.repeat(np.arange(len(rows)), counts)
        post = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        offsets = np.arange(len(places) + 1)
    users = [""] * len(rows)
    if split_by == "user" or not all(row.author for row in rows):
        users = [_user_key(row) for row in rows]
    persons = [f"author:{r.author}" if r.author else u for r, u in zip(rows, users, strict=True)]
    keys = store.numbers("key")[places]
    if split_by == "post":
        first, owners = np.unique(keys[offsets[:-1]], return_inverse=True)
        names = [f"{key:016x}" for key in first.tolist()]
    else:
        given = users if split_by == "user" else persons
        names = [*dict.fromkeys(given)]
        owners = encode_persons(given)[row].astype(np.int64)
    # Built-in users are drawn one by one: sentences that they share are templates, not copies.
    shared = slice(0) if config.data.source == BUILTIN else slice(None)
    text_owners = np.repeat(owners, np.diff(offsets))[shared]
    is_long = store.numbers("is_long")[places][shared].astype(bool)
    group_of = group_owners(names, owners, text_owners, keys[shared], is_long)
    mentioned = np.full(len(row), -1, np.int8)
    for index, mentions in count_mentions(store, "mentions", places, offsets):
        mentioned[index] = TYPES.index(most_mentioned(mentions) or "")
    return Examples(
        rows, row, post, store, places, offsets, persons, group_of[owners], names, mentioned
    )


def _user_key(row: Row) -> str:
    # Posts of several rows are in the order of the rows, which must not change the split.
    posts = sorted(row.posts) if row.joined > 1 else row.posts
    return hash_parts("user", row.mbti_type or "", *posts)


def person_kind(rows: Sequence[Row]) -> str:
    """What counts as one person: author if any row names one, else user."""
    return "author" if any(row.author for row in rows) else "user"


def encode_persons(persons: Iterable[str]) -> NDArray[np.int32]:
    """A number for each person, in the order of first occurrence."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(person, len(numbers)) for person in persons], np.int32)


def split_examples(config: RunConfig, examples: Examples) -> dict[str, Indices]:
    """The indices of the examples by split (train, val, test), each in the order of the source.

    With `data.folds` the test split is `data.fold`; without it, all rows are in train. Raises
    DataError for too few groups.
    """
    groups = [examples.groups[group] for group in examples.group.tolist()]
    data = config.data
    shared: dict[str, Any] = {"val_share": data.val_share, "seed": config.seed}
    try:
        if data.folds is None:
            shared["test_share"] = data.test_share
            assigned = assign_splits(groups, examples.types, **shared)
        else:
            shared |= {"folds": data.folds, "fold": data.fold or 1}
            assigned = assign_fold(groups, examples.types, **shared)
    except DataError as error:
        if len(set(groups)) == len(examples):
            raise
        raise DataError(
            f"{error}; {len(examples)} {config.data.unit}s are only {len(set(groups))} groups, "
            "because those that share an author or a text (by its letters and digits, as the model "
            "reads it) are always in one split"
        ) from error
    members = {name: np.flatnonzero(assigned == place) for place, name in enumerate(SPLITS)}
    # Then val and test have been trained on, and nothing is measured on them.
    return members | {"train": np.arange(len(examples))} if data.trains_on_all else members


def count_shared(
    examples: Examples, members: Mapping[str, Indices], column: str = "key"
) -> tuple[int, int]:
    """How many posts are in val and test, and how many of them have their text in train, too.

    Texts are compared as `text_key` does, or as written (`written_key`). Not 0 where
    `group_owners` leaves common texts apart.
    """
    keys = examples.store.numbers(column)[examples.places]
    train, val, test = (keys[examples.posts_of(members[name])] for name in SPLITS)
    held_out = np.concatenate([val, test])
    return len(held_out), int(contains(np.sort(train), held_out).sum())
