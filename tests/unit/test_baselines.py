"""Baselines: what they predict, and what they report when they cannot."""

import numpy as np
import pytest

from mbti_ray.inference.split_predictions import tfidf_baseline
from mbti_ray.model.tfidf import fit_tfidf
from mbti_ray.scores.baselines import majority_class, most_mentioned_type
from mbti_ray.typology import TYPES, labels_of, type_of

pytestmark = pytest.mark.unit


@pytest.fixture
def with_sklearn():
    pytest.importorskip("sklearn", reason="needs the extra baselines")


def labels_of_types(*types):
    return np.array([labels_of(t) for t in types], dtype=np.uint8)


def predicted_types(baseline):
    return [type_of(row.tolist()) for row in baseline.predicted]


def mentioning(mentioned, labels):
    indices = np.array([TYPES.index(t) if t else -1 for t in mentioned])
    return most_mentioned_type(indices, labels, name="m", description="d", comparable=False)


def words_of(labels, *, seed, noise=6):
    """Texts with a word for each pole and uninformative others."""
    rng = np.random.default_rng(seed)
    filler = [f"word{i}" for i in range(30)]
    return [
        " ".join([*(f"pole{k}{y}" for k, y in enumerate(row)), *rng.choice(filler, noise)])
        for row in labels
    ]


def test_majority_predicts_the_majority_class_of_each_dimension_for_every_row():
    labels = labels_of_types("INTJ", "INTP", "ENFJ", "ISTJ")
    assert predicted_types(majority_class(labels)) == ["INTJ"] * 4


def test_majority_need_not_be_the_most_common_type():
    labels = labels_of_types("ESFP", "ESFP", "INTP", "INFJ", "ENTJ")
    assert predicted_types(majority_class(labels)) == ["ENFP"] * 5
    assert predicted_types(mentioning([None] * 5, labels)) == ["ESFP"] * 5


def test_a_mentioned_type_is_predicted_as_it_is():
    labels = labels_of_types(*["INTJ"] * 16)
    assert predicted_types(mentioning(TYPES, labels)) == list(TYPES)


def test_a_row_without_a_mention_gets_the_most_common_type_of_the_rows():
    labels = labels_of_types("INFP", "INFP", "ESTJ", "ENTP")
    got = predicted_types(mentioning([None, "ISFJ", None, "ENTP"], labels))
    assert got == ["INFP", "ISFJ", "INFP", "ENTP"]


def test_of_equally_common_types_the_first_is_predicted():
    labels = labels_of_types("INTP", "ENTJ", "INTP", "ENTJ")
    assert predicted_types(mentioning([None] * 4, labels)) == ["ENTJ"] * 4


def test_a_baseline_that_reads_hidden_words_is_marked_as_not_comparable():
    assert not mentioning([None], labels_of_types("INTP")).comparable
    assert majority_class(labels_of_types("INTP")).comparable


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_learns_what_majority_cannot_know():
    labels = (np.random.default_rng(0).random((240, 4)) < [0.3, 0.6, 0.5, 0.4]).astype(np.uint8)
    texts = words_of(labels, seed=1)
    learned = tfidf_baseline(fit_tfidf(texts[:160], labels[:160]), texts[160:])
    truth = labels[160:].astype(bool)
    assert (learned.predicted == truth).mean(0).min() > 0.95
    assert (majority_class(labels[160:]).predicted == truth).mean(0).max() < 0.8


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_predicts_the_same_again():
    labels = (np.random.default_rng(0).random((90, 4)) < 0.5).astype(np.uint8)
    # Labels that no word reveals, so that every prediction is near the threshold.
    texts = words_of(np.random.default_rng(1).integers(0, 2, (90, 4)), seed=1)
    first = tfidf_baseline(fit_tfidf(texts[:60], labels[:60]), texts[60:])
    again = tfidf_baseline(fit_tfidf(texts[:60], labels[:60]), texts[60:])
    assert 0 < first.predicted.mean() < 1
    np.testing.assert_array_equal(first.predicted, again.predicted)


@pytest.mark.usefixtures("with_sklearn")
def test_tfidf_predicts_the_only_class_of_a_dimension():
    labels = np.array([[1, 0, 0, 1], [0, 0, 1, 1]] * 10)
    texts = words_of(labels, seed=0)
    predicted = tfidf_baseline(fit_tfidf(texts, labels), [*texts, ""]).predicted
    assert not predicted[:, 1].any()
    assert predicted[:, 3].all()
    np.testing.assert_array_equal(predicted[:-1], labels)


@pytest.mark.usefixtures("with_sklearn")
@pytest.mark.parametrize("texts", [["", "", ""], ["one of", "them all", "unlike"]])
def test_tfidf_of_texts_that_share_no_word_predicts_the_majority_class_in_training(texts):
    labels = labels_of_types("INTJ", "INTP", "ENFP")
    assert predicted_types(tfidf_baseline(fit_tfidf(texts, labels), ["them", "one"])) == [
        "INTP",
        "INTP",
    ]
