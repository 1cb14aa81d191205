"""A stack of two members' logits: what it believes, and what it does not."""

import numpy as np
import pytest

from mbti_ray.model.stack import fit_stack

pytest.importorskip("sklearn", reason="needs the extra baselines")
pytestmark = pytest.mark.unit


def people(seed, *, count=200, skills=(1.0, 1.0), shift=0.0):
    """Logits [R, 4] of two members who err apart, and the labels of as many people."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 4)) < [0.3, 0.85, 0.5, 0.4]).astype(float)
    encoder, tfidf = (s * (2 * labels - 1) + rng.normal(0, 1, labels.shape) for s in skills)
    return encoder + shift, tfidf, labels


def balanced_accuracy(logits, labels):
    right = (logits > 0) == labels
    return np.mean([right[labels[:, k] == c, k].mean() for k in range(4) for c in (0, 1)])


def test_of_sixty_people_a_stack_learns_what_two_equally_good_members_are_worth():
    """Here a weight of each member in each dimension gains 0.019, one of each member 0.027."""
    gains = []
    for seed in range(25):
        stack = fit_stack(*people(seed, count=60, skills=(0.2, 0.2)))
        encoder, tfidf, labels = people(1000 + seed, count=2000, skills=(0.2, 0.2))
        stacked = balanced_accuracy(stack.logits(encoder, tfidf), labels)
        gains.append(stacked - balanced_accuracy(tfidf, labels))
    assert np.mean(gains) > 0.024


def test_a_member_that_errs_on_purpose_counts_nothing():
    encoder, tfidf, labels = people(0, skills=(-0.5, 1.0))
    stack = fit_stack(encoder, tfidf, labels)
    assert (stack.weights[:, 0] == 0).all()
    assert (stack.weights[:, 1] > 0).all()
    nobody = fit_stack(*people(1, skills=(-0.5, -0.5)))
    assert (nobody.weights == 0).all()


def test_classes_weigh_alike_whatever_prior_a_member_has():
    plain, shifted = (fit_stack(*people(0, shift=shift)) for shift in (0.0, 3.0))
    new = people(1, count=5000)
    logits = plain.logits(*new[:2])
    np.testing.assert_allclose(shifted.logits(new[0] + 3.0, new[1]), logits, atol=0.3)
    recalls = [(logits[new[2][:, 1] == c, 1] > 0).mean() for c in (0, 1)]
    assert recalls[1] == pytest.approx(1 - recalls[0], abs=0.1)


def test_a_dimension_of_one_class_is_answered_with_it_and_spoils_no_other():
    encoder, tfidf, labels = people(0)
    expected = fit_stack(encoder, tfidf, labels)
    labels[:, 2] = 1
    stack = fit_stack(encoder, tfidf, labels)
    logits = stack.logits(encoder, tfidf)
    assert (logits[:, 2] > 0).mean() > 0.95
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(stack.weights[0], expected.weights[0], atol=0.3)
