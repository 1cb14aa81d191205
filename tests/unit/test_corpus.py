"""The built-in corpus: reproducible, with the shares and the best scores that it claims."""

import re
from collections import Counter
from itertools import product

import pytest

from mbti_ray.data.builtin_corpus import (
    BEST_POSSIBLE,
    CUES,
    FILLERS,
    NAMINGS,
    NOISE,
    ONE_CUE,
    TWO_CUES,
    TYPE_COUNTS,
    builtin_rows,
)
from mbti_ray.data.mask import mask_text
from mbti_ray.data.sources import read_source
from mbti_ray.typology import DIMENSIONS, TYPES, labels_of

pytestmark = pytest.mark.unit

POLE_OF_CUE = {cue: pole for pole, cues in CUES.items() for cue in cues}


@pytest.fixture(scope="module")
def rows():
    return builtin_rows()


def words_of(row):
    return re.findall(r"[a-z]+", mask_text(" ".join(row.posts)).lower())


def poles_shown(row):
    return Counter(POLE_OF_CUE[word] for word in words_of(row) if word in POLE_OF_CUE)


def test_the_corpus_is_the_same_on_every_machine_and_python():
    assert read_source("builtin").fingerprint == "abae2dac65c0170c"


def test_another_seed_gives_other_users_of_the_same_types(rows):
    others = builtin_rows(seed=1)
    assert [r.posts for r in others] != [r.posts for r in rows]
    assert Counter(r.mbti_type for r in others) == Counter(r.mbti_type for r in rows)


def test_types_have_the_shares_of_the_public_set(rows):
    assert sum(TYPE_COUNTS.values()) == 8675
    assert {t: n for t, n in Counter(r.mbti_type for r in builtin_rows(users=8675)).items()} == (
        TYPE_COUNTS
    )
    for mbti_type, count in Counter(r.mbti_type for r in rows).items():
        assert abs(count - len(rows) * TYPE_COUNTS[mbti_type] / 8675) < 1
    labels = [labels_of(r.mbti_type) for r in rows]
    shares = [100 * sum(column) / len(rows) for column in zip(*labels, strict=True)]
    assert shares == pytest.approx([23.0, 86.2, 45.9, 39.6], abs=0.1)


@pytest.mark.parametrize("users", [1, 16, 100, 2400])
def test_the_number_of_users_is_as_requested(users):
    assert [r.number for r in builtin_rows(users=users)] == list(range(1, users + 1))


def test_no_cue_belongs_to_two_poles_or_is_in_a_sentence():
    cues = [cue for pole in CUES.values() for cue in pole]
    assert len(cues) == len(set(cues)) == 8 * 14
    sentences = " ".join((*ONE_CUE, *TWO_CUES, *FILLERS, *NAMINGS))
    assert not set(re.findall(r"[a-z]+", sentences)) & set(cues)


def test_every_user_shows_two_cues_of_one_pole_on_every_dimension(rows):
    for row in rows:
        shown = poles_shown(row)
        for dimension in DIMENSIONS:
            counts = sorted(shown[pole] for pole in dimension.letters)
            assert counts[0] == 0
            assert counts[1] >= 2
        assert len(row.posts) == 7
        assert row.author is None


def test_reading_the_poles_shown_reaches_the_best_possible_scores(rows):
    hits = [[letter in poles_shown(row) for letter in row.mbti_type] for row in rows]
    shares = [sum(column) / len(rows) for column in zip(*hits, strict=True)]
    # Three standard deviations of a share of about 0.95 among 2,400.
    assert shares == pytest.approx([BEST_POSSIBLE[f"acc_{d.key}"] for d in DIMENSIONS], abs=0.015)
    total = sum(all(hit) for hit in hits) / len(rows)
    assert total == pytest.approx(BEST_POSSIBLE["acc_total"], abs=0.025)


def chance(true, shown):
    """Probability of a true type with the type shown, from the counts and the noise."""
    result = TYPE_COUNTS[true] / 8675
    for a, b, noise in zip(true, shown, NOISE, strict=True):
        result *= noise if a != b else 1 - noise
    return result


def test_no_classifier_can_expect_more_than_the_best_possible_scores():
    joint = {pair: chance(*pair) for pair in product(TYPES, TYPES)}
    best_total = sum(max(joint[true, shown] for true in TYPES) for shown in TYPES)
    assert best_total == pytest.approx(BEST_POSSIBLE["acc_total"])
    for place, dimension in enumerate(DIMENSIONS):
        best = sum(
            max(
                sum(joint[true, shown] for true in TYPES if true[place] == letter)
                for letter in dimension.letters
            )
            for shown in TYPES
        )
        assert best == pytest.approx(BEST_POSSIBLE[f"acc_{dimension.key}"])


def test_a_third_of_the_users_name_their_own_type_and_masking_replaces_all_of_it(rows):
    named = [any(row.mbti_type in post.upper() for post in row.posts) for row in rows]
    assert 0.30 < sum(named) / len(rows) < 0.37
    for row in rows:
        masked = mask_text(" ".join(row.posts)).upper()
        assert not any(mbti_type in masked for mbti_type in TYPES)
        assert "HTTPS" not in masked


def test_some_posts_have_links_and_emoji(rows):
    texts = [" ".join(row.posts) for row in rows]
    assert 0.3 < sum("https://" in text for text in texts) / len(rows) < 0.6
    assert 0.4 < sum(not text.isascii() for text in texts) / len(rows) < 0.8
