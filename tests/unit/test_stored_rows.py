"""Rows and posts in a store: the same as in memory, and an index that does not grow with posts."""

import tracemalloc
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbti_ray.config import load_run
from mbti_ray.config.data_section import DataConfig
from mbti_ray.data import posts as module
from mbti_ray.data.examples import build_examples, count_shared, encode_persons, split_examples
from mbti_ray.data.posts import PostStore, StoredPosts, describe_posts
from mbti_ray.data.rows import Row
from mbti_ray.data.stored_rows import StoredRows, store_rows
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit


def store_of(batches: Sequence[Sequence[str]]) -> PostStore:
    store = PostStore()
    for posts in batches:
        store.append(describe_posts(posts, DataConfig()))
    return store


def test_rows_from_a_store_are_those_that_were_put_into_it() -> None:
    rows = [
        Row(2, "INTJ", ("one", "two \U0001f5a4", "as an ENFP"), "ann"),
        Row(3, "ESFP", ("three",), None, shares=(0.25, 0.5, 0.75, 1.0)),
        Row(7, "INTJ", ("two \U0001f5a4",), "ann"),
    ]
    stored = store_rows(rows, DataConfig())
    assert [*stored] == rows
    assert [stored[k] for k in (2, 0, -2)] == [rows[2], rows[0], rows[1]]
    assert stored[1:] == rows[1:]
    assert [*stored.take(np.array([2, 0]))] == [rows[2], rows[0]]
    assert stored.labels.tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 1]]


@given(
    batches=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=6),
    sorted_at_once=st.integers(1, 12),
)
def test_posts_whose_text_occurs_again_are_found_whatever_is_sorted_at_once(
    batches: list[list[str]], sorted_at_once: int
) -> None:
    posts = [post for batch in batches for post in batch]
    store, counts = store_of(batches), Counter(posts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_POSTS_SORTED", sorted_at_once)
        parts = [*store.repeated("key")]
    found = {place: key for part in parts for place, key in zip(*part, strict=True)}
    assert sorted(found) == [k for k, post in enumerate(posts) if counts[post] > 1]
    assert all((found[a] == found[b]) == (posts[a] == posts[b]) for a in found for b in found)
    # Equal ones are in one part.
    assert sum(len(np.unique(keys)) for _, keys in parts) == len({*found.values()})


def test_each_post_has_its_owner_and_one_of_a_row_that_was_left_out_has_none() -> None:
    store = store_of([["a", "b", "c"], ["d", "e", "f", "g"]])
    # Of two rows: a joined one, whose posts lie apart, and one between; d is of none.
    first, count, offsets = np.array([0, 5, 2]), np.array([2, 2, 1]), np.array([0, 2, 3])
    posts = StoredPosts(store, first, count, offsets)
    assert [*posts.read("post", np.array([1, 0]))] == [("c",), ("a", "b", "f", "g")]
    assert posts.owners(np.arange(7)).tolist() == [0, 0, 1, -1, -1, 0, 0]
    assert posts.totals.tolist() == [4, 1]
    nobody = posts.take(np.zeros(0, int))
    assert nobody.owners(np.arange(2)).tolist() == [-1, -1]
    assert nobody.totals.tolist() == []


def test_persons_are_numbered_in_the_order_in_which_they_occur() -> None:
    assert encode_persons(["b", "a", "b", "\u00e9", "a"]).tolist() == [0, 1, 0, 2, 1]
    assert encode_persons([]).tolist() == []


def index_bytes(posts_of_a_row: int) -> int:
    """What grouping, splitting and counting copies took at most, of 60 rows with so many posts."""
    batch, rows = describe_posts(["a text"] * posts_of_a_row, DataConfig()), 60
    random, store = np.random.default_rng(0), PostStore()
    key = batch.schema.get_field_index("key")
    for _ in range(rows):
        keys = random.integers(0, 2**63, posts_of_a_row, np.uint64)
        keys[0] = 7
        store.append(batch.set_column(key, "key", pa.array(keys)))
    first = np.arange(rows) * posts_of_a_row
    stored = StoredRows(
        posts=StoredPosts(store, first, np.full(rows, posts_of_a_row), np.arange(rows + 1)),
        number=np.arange(rows),
        types=np.arange(rows, dtype=np.int8) % len(TYPES),
        author=np.arange(rows, dtype=np.int32),
        authors=[f"author {k}" for k in range(rows)],
        shares=np.full((rows, 4), np.nan),
    )
    config = load_run("quick", ["data.source=x", "data.val_share=0.2", "data.test_share=0.2"])
    tracemalloc.start()
    try:
        examples = build_examples(config, stored)
        assert count_shared(examples, split_examples(config, examples))[1] > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_is_in_memory_does_not_grow_with_the_posts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSTS_SORTED", 2**14)
    few, many = index_bytes(500), index_bytes(4000)
    # 210,000 more posts; each of one column of numbers would be eight bytes.
    assert many - few < 210_000
