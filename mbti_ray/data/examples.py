"""From the rows of a source to examples: preprocessed texts with labels, groups and a split.

Owns what an example is (a user or a post). Must not know of file formats, tokens or tensors.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.mask import most_mentioned
from mbti_ray.data.posts import StoredPosts, hash_parts, join_ranges
from mbti_ray.data.readers import BUILTIN
from mbti_ray.data.rows import Shares
from mbti_ray.data.split import (
    SPLITS,
    Indices,
    Strings,
    assign_splits,
    contains,
    group_owners,
)
from mbti_ray.data.stored_rows import StoredRows
from mbti_ray.errors import DataError, counted
from mbti_ray.typology import TYPES


@dataclass(frozen=True)
class Example:
    """One training example: a user or a post, as `data.unit` says.

    Attributes:
        texts: What the model reads: one text for each post, cleaned and masked.
        posts: The same as written.
        person: Who wrote it: the author if the source names one, else the user.
        mentioned: The type that the texts mention most often before masking, if any.
        number, shares: As in `Row`.
        post: Index among the posts of its row; -1 for a whole user.
    """

    texts: tuple[str, ...]
    posts: tuple[str, ...]
    mbti_type: str
    person: str
    mentioned: str | None
    number: int
    post: int
    shares: Shares | None


@dataclass(frozen=True)
class Examples:
    """E examples, in the order of the source; their texts are read when asked for.

    Attributes:
        rows: The rows they come from, one each or one for several.
        row: Index of each one's row: [E].
        post: As `Example.post`: [E].
        posts: Those of each.
        split_by: `data.split_by`; for auto, author if the source names any, else user.
        persons: `Example.person` of each row.
        group: Index in `groups`: [E].
        mentioned: Index in `TYPES` of the type mentioned most often before masking, or -1: [E].
    """

    rows: StoredRows
    row: Indices
    post: Indices
    posts: StoredPosts
    split_by: str
    persons: Strings
    group: Indices
    groups: Strings
    mentioned: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.row)

    def read(self, indices: Indices | None = None) -> Iterator[Example]:
        """Some of the examples, or all, with their texts."""
        indices = np.arange(len(self)) if indices is None else indices
        columns = (self.posts.read(column, indices) for column in ("text", "post"))
        for i, texts, posts in zip(indices.tolist(), *columns, strict=True):
            row = int(self.row[i])
            yield Example(
                texts=texts,
                posts=posts,
                mbti_type=TYPES[self.rows.types[row]],
                person=self.persons[row],
                mentioned=TYPES[self.mentioned[i]] if self.mentioned[i] >= 0 else None,
                number=int(self.rows.number[row]),
                post=int(self.post[i]),
                shares=self.rows.shares_of(row),
            )

    def texts(self, indices: Indices) -> Iterator[str]:
        """What the model reads of some examples, post after post."""
        return chain.from_iterable(self.posts.read("text", indices))


def count_mentions(posts: StoredPosts, column: str) -> Iterator[tuple[int, Counter[str]]]:
    """How often the posts of each row or example mention each type, where they mention any.

    In the order of first mention, with the index of the row or example.
    """
    for index, mentions in enumerate(posts.read(column, np.arange(len(posts.totals)))):
        if any(mentions):
            yield index, Counter(TYPES[place] for of_post in mentions for place in of_post)


def build_examples(config: RunConfig, rows: StoredRows) -> Examples:
    """The examples in the rows, in the order of the source."""
    row, posts = np.arange(len(rows)), rows.posts
    split_by = config.data.split_by if config.data.split_by != "auto" else rows.person_kind
    is_named = rows.author >= 0
    users = _user_keys(rows, row if split_by == "user" else np.flatnonzero(~is_named))
    persons = users.copy()
    authors = _strings(map("author:{}".format, rows.authors), len(rows.authors))
    persons[is_named] = authors[rows.author[is_named]]
    post = np.full(len(rows), -1)
    if config.data.unit == "post":
        post = join_ranges(np.zeros_like(posts.totals), posts.totals)
        places = posts.places(row)
        row = np.repeat(row, posts.totals)
        posts = StoredPosts(posts.store, places, np.ones_like(places), np.arange(len(places) + 1))
    if split_by == "post":
        order = np.argsort(posts.first)
        keys = np.empty(len(posts.first), np.uint64)
        keys[order] = posts.store.numbers("key", posts.first[order])
        keys, owners = np.unique(keys, return_inverse=True)
        names = _strings(map("{:016x}".format, keys.tolist()), len(keys))
    else:
        names, of_row = np.unique(users if split_by == "user" else persons, return_inverse=True)
        owners = of_row[row]
    mentioned = np.full(len(row), -1, np.int8)
    for index, mentions in count_mentions(posts, "mentions"):
        mentioned[index] = TYPES.index(most_mentioned(mentions) or "")
    written = np.bincount(owners, posts.totals, minlength=len(names)).astype(np.int64)
    # Built-in users are drawn one by one: sentences that they share are templates, not copies.
    is_copied = config.data.source != BUILTIN
    groups = group_owners(owners, written, partial(_copies, posts, owners) if is_copied else tuple)
    return Examples(rows, row, post, posts, split_by, persons, groups[owners], names, mentioned)


def _user_keys(rows: StoredRows, indices: Indices) -> Strings:
    """A hash of the type and the posts of some rows; nothing for the others: [R]."""
    keys = _strings((), len(rows))
    is_joined = np.diff(rows.posts.offsets) > 1
    for i, posts in zip(indices.tolist(), rows.posts.read("post", indices), strict=True):
        # Posts of several rows are in the order of the rows, which must not change the split.
        own = sorted(posts) if is_joined[i] else posts
        keys[i] = hash_parts("user", TYPES[rows.types[i]], *own)
    return keys


def _strings(values: Iterable[str], count: int) -> Strings:
    found = np.empty(count, np.dtypes.StringDType())
    for k, value in enumerate(values):
        found[k] = value
    return found


def _copies(
    posts: StoredPosts, owners: Indices
) -> Iterator[tuple[Indices, NDArray[np.uint64], NDArray[np.bool_]]]:
    """Texts that may occur more than once, as `group_owners` takes them."""
    for places, keys in posts.store.repeated("key"):
        examples = posts.owners(places)
        places, keys = places[examples >= 0], keys[examples >= 0]
        is_long = posts.store.numbers("is_long", places).astype(bool)
        yield owners[examples[examples >= 0]], keys, is_long


def encode_persons(persons: Sequence[str] | Strings) -> NDArray[np.int32]:
    """A number for each person, in the order of first occurrence."""
    strings = _strings(persons, len(persons))
    _, first, inverse = np.unique(strings, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def split_examples(config: RunConfig, examples: Examples) -> dict[str, Indices]:
    """The indices of the examples by split (train, val, test), each in the order of the source.

    With `data.folds` the test split is `data.fold`; without it, all rows are in train. Raises
    DataError for too few groups.
    """
    data = config.data
    try:
        assigned = assign_splits(
            examples.group,
            examples.rows.types[examples.row],
            examples.groups,
            val_share=data.val_share,
            test_share=data.test_share,
            seed=config.seed,
            folds=data.folds,
            fold=data.fold or 1,
        )
    except DataError as error:
        groups = len(np.unique(examples.group))
        if groups == len(examples):
            raise
        raise DataError(
            f"{error}; {len(examples)} {config.data.unit}s are only "
            f"{counted(groups, 'group')}, because those that share an author or a text (by its "
            "letters and digits, as the model reads it) are always in one split"
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
    posts = examples.posts
    # The last one is that of posts which belong to no example.
    split_of = np.full(len(examples) + 1, -1, np.int8)
    for split, name in enumerate(SPLITS):
        split_of[members[name]] = split
    held_out = sum(int(posts.totals[members[name]].sum()) for name in ("val", "test"))
    shared = 0
    for places, keys in posts.store.repeated(column):
        splits = split_of[posts.owners(places)]
        shared += int(contains(np.sort(keys[splits == 0]), keys[splits > 0]).sum())
    return held_out, shared
