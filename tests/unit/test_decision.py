"""From logits to letters: other people's base rates, and how much text would make a letter sure."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbti_ray.config.serve_section import BaseRates
from mbti_ray.errors import ConfigError
from mbti_ray.inference.decision import Decision
from mbti_ray.inference.manifest import Manifest
from mbti_ray.scores.calibration import LengthScaling, fit_thresholds
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard

pytestmark = pytest.mark.unit

TRAINED = np.array([0.23, 0.86, 0.46, 0.4])
ASKED = np.array([0.5, 0.3, 0.5, 0.7])
LENGTH = LengthScaling(slope=[-0.4, -0.2, 0.0, 0.3], reference=200.0, low=10.0, high=3000.0)


def manifest(**changes: Any) -> Manifest:
    plain = {"id": "abc", "temperature": [1.0] * 4, "thresholds": [0.5] * 4, "abstain": 0.0}
    return Manifest.model_construct(**plain | {"config": {}, "length": None} | changes)


def people(rates: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [R, 4, 3] of people whose types have these rates, and their labels [R, 4]."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 4)) < rates).astype(int)
    return (2 * labels - 1)[..., None] * 0.35 + rng.normal(size=(count, 4, 3)), labels


def fitted_logits(train: Any, *others: Any) -> list[np.ndarray]:
    """The logits of a logistic regression for each dimension, of some people's features."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = train
    models = [linear_model.LogisticRegression().fit(features[:, k], labels[:, k]) for k in range(4)]
    return [
        np.stack([m.decision_function(x[:, k]) for k, m in enumerate(models)], 1) for x in others
    ]


def scores(logits: torch.Tensor, labels: np.ndarray, thresholds: torch.Tensor) -> Any:
    probabilities = torch.sigmoid(logits.double()).numpy()
    rows = Scored(probabilities, labels, thresholds.double().numpy(), np.arange(len(labels)))
    return build_scorecard(rows, (), resamples=0, person="user")["overall"]


@pytest.mark.parametrize("objective", ["half", "accuracy", "balanced_accuracy", "f1"])
def test_base_rates_score_as_a_model_that_was_trained_on_such_people(objective: Any) -> None:
    train, like = people(TRAINED, 4000, 0), people(ASKED, 4000, 1)
    val, test = people(TRAINED, 2000, 2), people(ASKED, 4000, 3)
    of_val, ours = fitted_logits(train, val[0], test[0])
    (theirs, of_test) = fitted_logits(like, people(ASKED, 2000, 4)[0], test[0])
    thresholds = fit_thresholds(1 / (1 + np.exp(-of_val)), val[1], objective)
    best = fit_thresholds(1 / (1 + np.exp(-theirs)), people(ASKED, 2000, 4)[1], objective)
    bundle = manifest(
        base_rates=train[1].mean(0).tolist(),
        thresholds=thresholds,
        config={"scoring": {"threshold": objective}},
    )
    rates = dict(zip("ENTJ", ASKED.tolist(), strict=True))
    found = {}
    for name, asked in (("plain", None), ("asked", BaseRates(**rates))):
        decision = Decision(bundle, asked)
        calibrated = decision.calibrate(torch.from_numpy(ours), [1] * len(ours))
        found[name] = scores(calibrated, test[1], decision.thresholds)
    right = scores(torch.from_numpy(of_test), test[1], torch.tensor(best))
    ece = {name: card["ece"]["value"] for name, card in found.items()}
    assert ece["plain"] > right["ece"]["value"] + 0.1
    assert ece["asked"] < right["ece"]["value"] + 0.02
    assert found["asked"]["macro_f1"]["value"] > right["macro_f1"]["value"] - 0.02


def test_only_the_poles_that_are_named_change() -> None:
    bundle = manifest(base_rates=TRAINED.tolist(), thresholds=[0.3] * 4)
    logits = torch.tensor([[0.1, -1.0, 2.0, 0.5]])
    decision = Decision(bundle, BaseRates(N=0.5))
    changed = decision.calibrate(logits, [5]) - Decision(bundle).calibrate(logits, [5])
    assert changed[0].tolist() == pytest.approx([0, -np.log(0.86 / 0.14), 0, 0], abs=1e-6)
    assert decision.thresholds.tolist() == pytest.approx([0.3, 0.5, 0.3, 0.3])


def test_a_bundle_that_does_not_know_its_base_rates_refuses_others() -> None:
    with pytest.raises(ConfigError, match="do not carry; train again"):
        Decision(manifest(base_rates=None), BaseRates(E=0.5))
    Decision(manifest(base_rates=None), BaseRates())


# Of 4 tokens no temperature is known, only of 10 and more.
@pytest.mark.parametrize(("tokens", "posts"), [(100, 5), (4, 1)])
@pytest.mark.parametrize("rates", [None, BaseRates(E=0.6, N=0.6, T=0.6, J=0.6)])
def test_with_so_many_more_posts_a_letter_is_four_fifths_probable_and_with_fewer_it_is_not(
    rates: BaseRates | None, tokens: int, posts: int
) -> None:
    decision = Decision(manifest(length=LENGTH, base_rates=[0.5] * 4), rates)
    logits = torch.tensor([[-1.6, 1.1, 0.6, 0.3]])

    def calibrated(posts_read: int) -> list[float]:
        z: list[float] = decision.calibrate(logits, [posts_read * tokens // posts])[0].tolist()
        return z

    more = decision.more_posts(calibrated(posts), tokens=tokens, posts=posts)
    assert more is not None
    # A slope of 0 or above: no text would help.
    assert (more["T"], more["J"]) == (None, None)
    for k, pole in enumerate("EN"):
        count = more[pole]
        assert count is not None
        assert count > 0
        sure = np.log(4)
        assert abs(calibrated(posts + count)[k]) >= sure - 1e-6
        assert abs(calibrated(posts + count - 1)[k]) < sure


@given(
    logits=st.lists(
        st.floats(-2000, 2000) | st.sampled_from([0.0, 1e-300, -1e-12]), min_size=4, max_size=4
    ),
    tokens=st.integers(1, 10**6),
    posts=st.integers(0, 1000),
    slope=st.sampled_from([-1.0, -0.025, -1e-9]),
)
def test_any_logits_have_a_number_of_posts_or_none(
    logits: list[float], tokens: int, posts: int, slope: float
) -> None:
    length = LENGTH.model_copy(update={"slope": [slope] * 4})
    more = Decision(manifest(length=length)).more_posts(logits, tokens=tokens, posts=posts)
    assert more is not None
    assert all(count is None or count >= 0 for count in more.values())


def test_no_number_of_posts_is_given_beyond_what_was_seen_and_none_is_needed_where_it_is_sure() -> (
    None
):
    decision = Decision(manifest(length=LENGTH))
    more = decision.more_posts([3.0, 0.2, -2.0, 0.0], tokens=100, posts=5)
    assert more == {"E": 0, "N": None, "T": 0, "J": None}
    assert Decision(manifest()).more_posts([0.1] * 4, tokens=100, posts=5) is None
