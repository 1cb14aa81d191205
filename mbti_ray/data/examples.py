"""From the rows of a source to examples: cleaned, masked, grouped by person, and split."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from mbti_ray.config.schema import RunConfig
from mbti_ray.data.mask import mentions_in, most_mentioned
from mbti_ray.data.sources import Row, Source
from mbti_ray.data.split import SPLITS, assign_splits
from mbti_ray.data.text import preprocess_text


@dataclass(frozen=True)
class Example:
    """One row of the model's data: a user or a post, with its texts cleaned and masked.

    Attributes:
        group: Rows of one group never stand on both sides of the split.
        person: Who wrote it: the author where the source names one, else the user.
        mentioned: The type that the texts mention most often before masking.
    """

    texts: tuple[str, ...]
    mbti_type: str
    group: str
    person: str
    mentioned: str | None
    number: int
    post: int


def resolve_split_by(config: RunConfig, source: Source) -> str:
    """What `data.split_by=auto` means for this source: author, else the unit's own grouping."""
    if config.data.split_by != "auto":
        return config.data.split_by
    return person_kind(source.rows)


def build_examples(config: RunConfig, rows: Sequence[Row], split_by: str) -> list[Example]:
    """The rows of the model's data, in the order of the file."""
    examples = []
    for row in rows:
        mbti_type = row.mbti_type or ""
        user = _digest("user", mbti_type, *row.posts)
        person = f"author:{row.author}" if row.author else user
        group = person if split_by == "author" else user
        for posts, place in _units(row.posts, config.data.unit):
            texts = tuple(
                preprocess_text(post, mask=config.data.mask, also=config.data.mask_also)
                for post in posts
            )
            # The same post twice must not stand on both sides of the split.
            own = _digest("post", texts[0]) if split_by == "post" else group
            mentioned = most_mentioned(mentions_in(posts))
            examples.append(Example(texts, mbti_type, own, person, mentioned, row.number, place))
    return examples


def _units(posts: tuple[str, ...], unit: str) -> list[tuple[tuple[str, ...], int]]:
    """The posts of each row that a user makes, and its place among the user's posts (-1: all)."""
    if unit == "user":
        return [(posts, -1)]
    return [((post,), place) for place, post in enumerate(posts)]


def person_kind(rows: Sequence[Row]) -> str:
    """What a person of these rows is: author where any is named, else user."""
    return "author" if any(row.author for row in rows) else "user"


def person_numbers(examples: Sequence[Example]) -> dict[str, int]:
    """A number for each person, in the order of their first row."""
    persons = dict.fromkeys(example.person for example in examples)
    return {person: number for number, person in enumerate(persons)}


def split_examples(config: RunConfig, examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples by split (train, val, test), each in the order of the file.

    Raises:
        DataError: There are too few groups to split.
    """
    assigned = assign_splits(
        [e.group for e in examples],
        [e.mbti_type for e in examples],
        val_share=config.data.val_share,
        test_share=config.data.test_share,
        seed=config.seed,
    )
    return {
        name: [e for e, split in zip(examples, assigned, strict=True) if split == place]
        for place, name in enumerate(SPLITS)
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
