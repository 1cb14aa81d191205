"""Splits: no group in two of them, stratified, the same on every machine."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.split import SPLITS, assign_splits
from mbti_ray.errors import DataError
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit

TWEETS = Path(__file__).parents[3] / "shared" / "data" / "tweets_users.csv"


def split(groups, types, *, val_share=0.1, test_share=0.1, seed=0):
    names, place = np.unique(groups, return_inverse=True)
    types = np.array([TYPES.index(t) for t in types], np.int8)
    shares = {"val_share": val_share, "test_share": test_share}
    return assign_splits(place, types, names, **shares, seed=seed)


def authors_of_two_a_type():
    """32 groups of 11 to 20 rows, two a type, as a small study of authors has."""
    groups, types = [], []
    for place, mbti_type in enumerate([*TYPES, *TYPES]):
        size = 11 if place % 8 == 0 else 20
        groups += [f"author {place}"] * size
        types += [mbti_type] * size
    return groups, types


@given(
    groups=st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=120),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60)
def test_a_group_is_never_separated(groups, seed):
    types = [TYPES[(ord(g) * 7 + i) % 16] for i, g in enumerate(groups)]
    try:
        splits = split(groups, types, val_share=0.2, test_share=0.2, seed=seed)
    except DataError:
        return
    assert len(set(zip(groups, splits.tolist(), strict=True))) == len(set(groups))
    assert set(splits.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(8))
def test_a_few_large_groups_come_close_to_the_requested_shares(seed):
    groups, types = authors_of_two_a_type()
    splits = split(groups, types, seed=seed)
    for index in (1, 2):
        assert 0.06 <= np.mean(splits == index) <= 0.14
        held_out = {t for t, s in zip(types, splits, strict=True) if s == index}
        for place, letters in enumerate(("EI", "SN", "TF", "JP")):
            assert {t[place] for t in held_out} == set(letters)
    assert {t for t, s in zip(types, splits, strict=True) if s == 0} == set(TYPES)


def test_single_rows_keep_the_share_of_each_type_and_pole():
    rows = builtin_rows()
    types = [row.mbti_type for row in rows]
    splits = split([str(row.number) for row in rows], types)
    counts = Counter(zip(types, splits.tolist(), strict=True))
    for mbti_type, total in Counter(types).items():
        assert abs(counts[mbti_type, 1] - total / 10) <= 1.5
        assert abs(counts[mbti_type, 2] - total / 10) <= 1.5
    assert np.bincount(splits).tolist() == [1920, 240, 240]


def test_the_order_of_the_rows_does_not_matter():
    groups, types = authors_of_two_a_type()
    order = np.random.default_rng(0).permutation(len(groups))
    moved = split([groups[i] for i in order], [types[i] for i in order])
    assert moved.tolist() == split(groups, types)[order].tolist()


def test_a_seed_gives_the_same_splits_in_another_process_and_another_seed_others():
    groups, types = authors_of_two_a_type()
    code = (
        "import sys, json; from tests.unit.test_split import split; "
        "print(split(*json.load(sys.stdin), seed=5).tolist())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([groups, types]),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = split(groups, types, seed=5)
    assert json.loads(there.stdout) == here.tolist()
    assert here.tolist() != split(groups, types, seed=6).tolist()
    assert here.dtype == np.int8


def test_fewer_than_three_groups_are_refused():
    with pytest.raises(DataError, match=r"2 groups of rows cannot be split into train, val, test"):
        split(["a", "b", "a"], ["INTJ", "INTP", "INTJ"])


def test_an_empty_split_is_refused_by_name():
    with pytest.raises(DataError, match=r"leave val empty at a share of 0\.1"):
        split(["a", "b", "c"], ["INTJ", "INTP", "ENFP"])


@pytest.mark.skipif(not TWEETS.exists(), reason=f"{TWEETS} is not on this machine")
def test_tweets_of_32_authors_split_by_author_close_to_the_shares():
    with TWEETS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = split([row["author"] for row in rows], [row["type"] for row in rows])
    shares = np.bincount(splits, minlength=len(SPLITS)) / len(rows)
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
