"""TF-IDF: it is scikit-learn's to the last digits, and is saved without it."""

import sys

import numpy as np
import pytest

from mbti_ray.data.text import find_words
from mbti_ray.errors import ConfigError
from mbti_ray.model import tfidf
from mbti_ray.model.tfidf import fit_tfidf, load_tfidf
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.unit

ODD = [
    "",
    "a I ?!",
    "Straße STRASSE ISTANBUL ǅ ﬁne",
    "don't l'été naïve_café привет_мир 한국어",
    "one two two_two\ttwo 12 3 x2",
    "Unseen words only, entirely",
]


def some_texts(count, *, seed, words=60):
    rng = np.random.default_rng(seed)
    vocabulary = [f"wort{i}" for i in range(words)] + ["Été", "привет", "don't", "x"]
    return [" ".join(rng.choice(vocabulary, rng.integers(3, 40))) for _ in range(count)]


def some_labels(count, *, seed=0):
    return (np.random.default_rng(seed).random((count, 4)) < [0.2, 0.7, 0.5, 0.4]).astype(np.uint8)


@pytest.mark.parametrize("max_features", [200_000, 150])
def test_logits_are_those_of_scikit_learn(monkeypatch, max_features):
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="needs the extra")
    linear_model = pytest.importorskip("sklearn.linear_model")
    monkeypatch.setattr(tfidf, "MAX_FEATURES", max_features)
    texts, labels = [*some_texts(120, seed=1), *ODD, *ODD], some_labels(132)
    new = [*some_texts(40, seed=2), *ODD]
    model = fit_tfidf(texts, labels)
    vectorizer = text.TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=max_features
    )
    fitted, evaluated = vectorizer.fit_transform(texts), vectorizer.transform(new)
    assert [*model.features] == [*vectorizer.get_feature_names_out()]
    got = model.logits([model.encode(t) for t in new])
    for k, label in enumerate(labels.T):
        balanced = linear_model.LogisticRegression(
            C=tfidf.INVERSE_PENALTY, max_iter=1000, class_weight="balanced"
        )
        expected = balanced.fit(fitted, label).decision_function(evaluated)
        # It is fitted in float32, and the solver stops at a tolerance.
        np.testing.assert_allclose(got[:, k], expected, atol=2e-3)


def test_a_share_counts_as_so_many_rows_of_each_class():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs the extra")
    random = np.random.default_rng(0)
    features, quarters = random.normal(size=(40, 3)), random.integers(0, 5, 40)
    # Four rows for each, of which so many are of the positive class.
    labels = (np.arange(4) < quarters[:, None]).ravel()
    repeated = linear_model.LogisticRegression(C=0.25, class_weight="balanced", max_iter=1000)
    repeated.fit(np.repeat(features, 4, axis=0), labels)
    weight = tfidf.balanced_weights(quarters / 4)
    weights, bias = tfidf.fit_logistic(features, weight, inverse_penalty=1.0)
    np.testing.assert_allclose(weights, repeated.coef_[0], atol=1e-3)
    assert bias == pytest.approx(repeated.intercept_[0], abs=1e-3)


def test_a_pair_may_be_a_feature_whose_words_are_none():
    model = tfidf.TfidfModel(["big cat"], np.ones(1), np.ones((4, 1)), np.zeros(4))
    texts = ["a big CAT", "cat big", "big", "big dog cat"]
    got = model.logits([model.encode(text) for text in texts])
    np.testing.assert_array_equal(got[:, 0], [1, 0, 0, 0])


def test_no_pair_reaches_over_the_end_of_a_post_so_their_order_means_nothing():
    pytest.importorskip("sklearn", reason="needs the extra")
    posts = [text.split(" ", 4) for text in some_texts(60, seed=1)]
    model = fit_tfidf(["\n".join(own) for own in posts], some_labels(60))
    assert any(" " in name for name in model.features)
    got = [
        model.logits([model.encode("\n".join(own[::step])) for own in posts]) for step in (1, -1)
    ]
    np.testing.assert_allclose(*got, atol=1e-12)
    joined = model.logits([model.encode(" ".join(own)) for own in posts])
    assert np.abs(joined - got[0]).max() > 1e-3


def test_a_dimension_of_one_class_is_answered_with_it():
    pytest.importorskip("sklearn", reason="needs the extra")
    labels = some_labels(40).astype(float)
    labels[:, 1], labels[:, 2] = 1, 0
    model = fit_tfidf(some_texts(40, seed=1), labels)
    logits = model.logits([model.encode(text) for text in some_texts(9, seed=2)])
    assert (logits[:, 1] == 10).all()
    assert (logits[:, 2] == -10).all()
    assert logits[:, 0].std() > 0


def test_a_saved_model_gives_the_same_logits_without_scikit_learn(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="needs the extra")
    model = fit_tfidf(some_texts(60, seed=1), some_labels(60))
    model.save(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    loaded = load_tfidf(tmp_path)
    new = [loaded.encode(text) for text in [*some_texts(20, seed=3), *ODD]]
    np.testing.assert_allclose(loaded.logits(new), model.logits(new), atol=1e-5)
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".txt"}


def test_weights_that_do_not_fit_the_features_are_refused(tmp_path):
    tfidf.TfidfModel(["two", "words"], np.ones(2), np.ones((4, 2)), np.zeros(4)).save(tmp_path)
    (tmp_path / "tfidf_features.txt").write_text("two\nwords\nmore")
    with pytest.raises(ValueError, match="3 features do not fit"):
        load_tfidf(tmp_path)


def test_words_are_in_lower_case_and_have_two_letters():
    assert find_words("I am_A b2 x É Été") == ["am_a", "b2", "été"]


def test_vowel_signs_belong_to_words_and_a_script_without_spaces_has_a_word_a_character():
    assert find_words("हिन्दी में एक, עִבְרִית") == ["हिन्दी", "में", "एक", "עִבְרִית"]
    assert find_words("北京ok、がカ ไทย") == [*"北京", "ok", *"がカไทย"]
    assert find_words("ok❤️ok 🙂") == ["ok", "ok"]


@pytest.mark.parametrize("letters", ["天地玄黃宇宙洪荒日月", "กขคงจชซดตท", "あいうえおかきくけこ"])
def test_a_language_without_spaces_between_words_is_learned(letters):
    pytest.importorskip("sklearn", reason="needs the extra")
    rng = np.random.default_rng(0)
    labels = some_labels(240)
    # Whoever is positive in a dimension writes one of two orders of two letters more often.
    orders = [(letters[2 * k : 2 * k + 2], letters[2 * k + 1] + letters[2 * k]) for k in range(4)]
    texts = [
        "".join(
            orders[k][int(rng.random() < (0.7 if y[k] else 0.3))] + letters[8:]
            for k in rng.integers(0, 4, 80)
        )
        for y in labels
    ]
    model = fit_tfidf(texts[:160], labels[:160])
    right = (model.logits([model.encode(t) for t in texts[160:]]) > 0) == labels[160:]
    assert right.mean() > 0.9


def test_without_its_extra_training_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'mbti_ray\[baselines\]'") as error:
        fit_tfidf(["a b", "a b"], np.array([labels_of(t) for t in ("INTJ", "ENFP")]))
    assert "\n" not in str(error.value)
