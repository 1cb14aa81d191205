"""From the rows of a source to examples: preprocessed texts with labels, groups and a split.

Owns what an example is (a user or a post) and which examples must stay in one split. Must not know
of file formats, tokens or tensors.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.groups import group_examples, text_key
from mbti_ray.data.mask import mentions_in, most_mentioned
from mbti_ray.data.rows import Row, Shares
from mbti_ray.data.sources import BUILTIN, Source
from mbti_ray.data.split import SPLITS, assign_fold, assign_splits
from mbti_ray.data.text import preprocess_text
from mbti_ray.errors import DataError


@dataclass(frozen=True)
class Example:
    """One training example: a user or a post, as `data.unit` says.

    Attributes:
        texts: What the model reads: one text for each post, cleaned and masked.
        group: Examples of one group are always in the same split.
        person: Who wrote it: the author if the source names one, else the user.
        mentioned: The type that the texts mention most often before masking, if any.
        number: `Row.number`.
        post: Index among the posts of its row; -1 for a whole user.
        shares: The soft label, as `Row.shares`.
    """

    texts: tuple[str, ...]
    mbti_type: str
    group: str
    person: str
    mentioned: str | None
    number: int
    post: int
    shares: Shares | None = None


def resolve_split_by(config: RunConfig, source: Source) -> str:
    """`data.split_by`; for auto, author if the source names any, else user."""
    if config.data.split_by != "auto":
        return config.data.split_by
    return person_kind(source.rows)


def build_examples(config: RunConfig, rows: Sequence[Row], split_by: str) -> list[Example]:
    """The examples in the rows, in the order of the source."""
    examples, owners = [], []
    for row in rows:
        mbti_type = row.mbti_type or ""
        user = hash_parts("user", mbti_type, *row.posts)
        person = f"author:{row.author}" if row.author else user
        for posts, place in _units(row.posts, config.data.unit):
            texts = tuple(
                preprocess_text(post, mask=config.data.mask, also=config.data.mask_also)
                for post in posts
            )
            post = hash_parts("post", text_key(texts[0]))
            owners.append({"author": person, "user": user, "post": post}[split_by])
            mentioned = most_mentioned(mentions_in(posts))
            examples.append(
                Example(texts, mbti_type, "", person, mentioned, row.number, place, row.shares)
            )
    # Built-in users are drawn one by one: sentences that they share are templates, not copies.
    is_builtin = config.data.source == BUILTIN
    shareable = [() if is_builtin else example.texts for example in examples]
    groups = group_examples(owners, shareable)
    return [replace(e, group=group) for e, group in zip(examples, groups, strict=True)]


def _units(posts: tuple[str, ...], unit: str) -> list[tuple[tuple[str, ...], int]]:
    """The posts of each example in a row, and their index in the row (-1: all of them)."""
    if unit == "user":
        return [(posts, -1)]
    return [((post,), place) for place, post in enumerate(posts)]


def person_kind(rows: Sequence[Row]) -> str:
    """What counts as one person: author if any row names one, else user."""
    return "author" if any(row.author for row in rows) else "user"


def number_persons(examples: Sequence[Example]) -> dict[str, int]:
    """A number for each person, in the order of first occurrence."""
    persons = dict.fromkeys(example.person for example in examples)
    return {person: number for number, person in enumerate(persons)}


def split_examples(config: RunConfig, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples by split (train, val, test), each in the order of the source.

    With `data.folds` the test split is `data.fold`; without it, all rows are in train.

    Raises:
        DataError: There are too few groups to split.
    """
    groups, types = [e.group for e in examples], [e.mbti_type for e in examples]
    data = config.data
    try:
        if data.folds is None:
            assigned = assign_splits(
                groups,
                types,
                val_share=data.val_share,
                test_share=data.test_share,
                seed=config.seed,
            )
        else:
            assigned = assign_fold(
                groups,
                types,
                folds=data.folds,
                fold=data.fold or 1,
                val_share=data.val_share,
                seed=config.seed,
            )
    except DataError as error:
        if len(set(groups)) == len(examples):
            raise
        raise DataError(
            f"{error}; {len(examples)} {config.data.unit}s are only {len(set(groups))} groups, "
            "because those that share an author or a text (by its letters and digits, as the model "
            "reads it) are always in one split"
        ) from error
    members = {
        name: [e for e, split in zip(examples, assigned, strict=True) if split == place]
        for place, name in enumerate(SPLITS)
    }
    # Then val and test have been trained on, and nothing is measured on them.
    return members | {"train": list(examples)} if data.trains_on_all else members


def count_shared(members: Mapping[str, Sequence[Example]]) -> tuple[int, int]:
    """How many posts are in val and test, and how many of them have their text in train, too.

    Texts are compared as `text_key` does. Not 0 where `group_examples` leaves common texts apart.
    """
    trained = {text_key(text) for e in members[SPLITS[0]] for text in e.texts}
    held_out = [text_key(text) for name in SPLITS[1:] for e in members[name] for text in e.texts]
    return len(held_out), sum(key in trained for key in held_out)


def hash_parts(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
