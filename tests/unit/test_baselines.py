"""Baselines: what they answer, and what they say when they cannot."""

import sys

import numpy as np
import pytest

from mbti_ray.errors import ConfigError
from mbti_ray.scores.baselines import majority, most_mentioned, tfidf
from mbti_ray.typology import TYPES, labels_of, type_of

pytestmark = pytest.mark.unit


@pytest.fixture
def with_sklearn():
    pytest.importorskip("sklearn", reason="needs the extra baselines")


def labels_of_types(*types):
    return np.array([labels_of(t) for t in types], dtype=np.uint8)


def types_given(baseline):
    return [type_of(row.tolist()) for row in baseline.given]


def mentioning(mentioned, labels):
    places = np.array([TYPES.index(t) if t else -1 for t in mentioned])
    return most_mentioned(places, labels, name="m", description="d", comparable=False)


def words_of(labels, *, seed, noise=6):
    """Texts that bear a word for each pole, and others that say nothing."""
    rng = np.random.default_rng(seed)
    filler = [f"word{i}" for i in range(30)]
    return [
        " ".join([*(f"pole{k}{y}" for k, y in enumerate(row)), *rng.choice(filler, noise)])
        for row in labels
    ]


def test_majority_gives_every_row_the_commonest_pole_of_each_dimension():
    labels = labels_of_types("INTJ", "INTP", "ENFJ", "ISTJ")
    assert types_given(majority(labels)) == ["INTJ"] * 4


def test_majority_need_not_be_the_commonest_type():
    labels = labels_of_types("ESFP", "ESFP", "INTP", "INFJ", "ENTJ")
    assert types_given(majority(labels)) == ["ENFP"] * 5
    assert types_given(mentioning([None] * 5, labels)) == ["ESFP"] * 5


def test_a_mentioned_type_is_given_as_it_is():
    labels = labels_of_types(*["INTJ"] * 16)
    assert types_given(mentioning(TYPES, labels)) == list(TYPES)


def test_a_row_without_a_mention_gets_the_commonest_type_of_the_rows():
    labels = labels_of_types("INFP", "INFP", "ESTJ", "ENTP")
    got = types_given(mentioning([None, "ISFJ", None, "ENTP"], labels))
    assert got == ["INFP", "ISFJ", "INFP", "ENTP"]


def test_of_equally_common_types_the_first_is_given():
    labels = labels_of_types("INTP", "ENTJ", "INTP", "ENTJ")
    assert types_given(mentioning([None] * 4, labels)) == ["ENTJ"] * 4


def test_a_baseline_that_reads_hidden_words_says_that_it_is_not_comparable():
    assert not mentioning([None], labels_of_types("INTP")).comparable
    assert majority(labels_of_types("INTP")).comparable


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_learns_what_majority_cannot_know():
    labels = (np.random.default_rng(0).random((240, 4)) < [0.3, 0.6, 0.5, 0.4]).astype(np.uint8)
    texts = words_of(labels, seed=1)
    learned = tfidf(texts[:160], labels[:160], texts[160:])
    truth = labels[160:].astype(bool)
    assert (learned.given == truth).mean(0).min() > 0.95
    assert (majority(labels[160:]).given == truth).mean(0).max() < 0.8


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_gives_the_same_answers_again():
    labels = (np.random.default_rng(0).random((90, 4)) < 0.5).astype(np.uint8)
    # Labels that no word tells, so that every answer is near the border.
    texts = words_of(np.random.default_rng(1).integers(0, 2, (90, 4)), seed=1)
    first = tfidf(texts[:60], labels[:60], texts[60:])
    again = tfidf(texts[:60], labels[:60], texts[60:])
    assert 0 < first.given.mean() < 1
    np.testing.assert_array_equal(first.given, again.given)


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_answers_a_dimension_of_one_class_with_it():
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 1]] * 10)
    texts = words_of(labels, seed=0)
    given = tfidf(texts, labels, [*texts, ""]).given
    assert not given[:, 1].any()
    assert given[:, 3].all()
    np.testing.assert_array_equal(given[:-1], labels)


@pytest.mark.usefixtures("with_sklearn")
@pytest.mark.parametrize("texts", [["", "", ""], ["one of", "them all", "unlike"]])
def test_tfidf_of_texts_that_share_no_word_gives_the_commonest_poles_in_training(texts):
    labels = labels_of_types("INTJ", "INTP", "ENFP")
    assert types_given(tfidf(texts, labels, ["them", "one"])) == ["INTP", "INTP"]


def test_tfidf_without_its_extra_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'mbti_ray\[baselines\]'") as error:
        tfidf(["a b", "a b"], labels_of_types("INTJ", "ENFP"), ["a"])
    assert "\n" not in str(error.value)
