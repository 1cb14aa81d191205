"""TF-IDF of words and word pairs with logistic regression: a model that needs no encoder.

Features and weights are those of scikit-learn, which is an extra and needed to fit only: a loaded
model is NumPy and a dictionary. Must not know files of data, bundles or torch.

Legend: R texts, T words of a text, V words that are known, F features (words and pairs of them), 4
dimensions in the order E, N, T, J. A text is read as the ids 1 to V of its words; 0 is a word that
no feature has, and stands between two lines: a text has a line for each post, and no pair reaches
over the end of one, so the order of posts means nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mbti_ray.data.text import find_words
from mbti_ray.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_FEATURES = 200_000
# Of the logistic regression: 10 did better than 1 on tweets, with a tweet or a user as the row.
INVERSE_PENALTY = 10.0
UNKNOWN_WORD = 0
_WEIGHTS, _FEATURES = "tfidf.safetensors", "tfidf_features.txt"
# The logit of a dimension with one class: sure, but finite.
_SURE = 10.0


@dataclass(frozen=True)
class TfidfModel:
    """A fitted model: the words and pairs ("two words") that are its F features, their inverse
    document frequencies [F], coefficients [4, F] and a bias [4].
    """

    features: Sequence[str]
    idf: Floats
    weights: Floats
    bias: Floats

    def __post_init__(self) -> None:
        count = len(self.features)
        shapes = (self.idf.shape, self.weights.shape, self.bias.shape)
        if shapes != ((count,), (4, count), (4,)):
            raise ValueError(f"{count} features do not fit to weights {shapes}")

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The ids of words, 1 to V."""
        words = dict.fromkeys(word for name in self.features for word in name.split(" "))
        return {word: place for place, word in enumerate(words, 1)}

    @cached_property
    def _keys(self) -> tuple[Ints, Ints]:
        """The key of each feature, ascending, and its place among the features: [F] each.

        The key of a pair is first * (V + 1) + second; that of a word has 0 as the first.
        """
        ids, base = self._ids, len(self._ids) + 1
        parts = [(["", *name.split(" ")])[-2:] for name in self.features]
        keys = np.array([ids.get(a, 0) * base + ids[b] for a, b in parts], np.int64)
        order = np.argsort(keys)
        return keys[order], order

    def encode(self, text: str) -> list[int]:
        """The ids of the words of a text, in order, line after line."""
        ids, found = self._ids, list[int]()
        for line in text.split("\n"):
            found += [UNKNOWN_WORD, *(ids.get(word, UNKNOWN_WORD) for word in find_words(line))]
        return found[1:]

    def logits(self, texts: Sequence[Sequence[int] | Ints]) -> Floats:
        """Logits [R, 4] of texts as `encode` returns them; the bias for one without features."""
        return np.array([self._logits(np.asarray(ids, np.int64)) for ids in texts]).reshape(-1, 4)

    def _logits(self, words: Ints) -> Floats:
        if not len(self.features):
            return self.bias
        keys, places = self._keys
        pairs = words[:-1] * (len(self._ids) + 1) + words[1:]
        is_known = (words[:-1] > 0) & (words[1:] > 0)
        of_text, counts = np.unique(np.r_[words, pairs[is_known]], return_counts=True)
        found = np.minimum(np.searchsorted(keys, of_text), len(keys) - 1)
        is_feature = keys[found] == of_text
        ids, counts = places[found[is_feature]], counts[is_feature]
        values = (1 + np.log(counts)) * self.idf[ids]
        length = float(np.sqrt(values @ values)) or 1.0
        return np.asarray(self.weights[:, ids] @ values / length + self.bias)

    def save(self, folder: Path) -> None:
        """Write the weights as safetensors, in float32, and the features as text, one a line."""
        weights = {name: getattr(self, name) for name in ("idf", "weights", "bias")}
        save_file({k: v.astype(np.float32) for k, v in weights.items()}, folder / _WEIGHTS)
        (folder / _FEATURES).write_text("\n".join(self.features), "utf-8", newline="\n")


def load_tfidf(folder: Path) -> TfidfModel:
    """The model that `save` wrote; an OSError or ValueError where it is damaged."""
    text = (folder / _FEATURES).read_bytes().decode("utf-8")
    arrays = {k: v.astype(float) for k, v in load_file(folder / _WEIGHTS).items()}
    return TfidfModel(text.split("\n") if text else [], **arrays)


def require_sklearn() -> None:
    """Raise ConfigError unless scikit-learn is installed, which training needs."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "TF-IDF needs scikit-learn to be trained: pip install 'mbti_ray[baselines]'"
        ) from error


def fit_tfidf(texts: Sequence[str], targets: NDArray[Any]) -> TfidfModel:
    """Fit to texts and their labels [R, 4], 0/1 or shares, with both classes weighing alike.

    A dimension with one class gets that class for every text; where no word occurs in two texts,
    all of them get the majority class. ConfigError where scikit-learn is not installed.
    """
    require_sklearn()
    from sklearn import feature_extraction

    vectorizer = feature_extraction.text.TfidfVectorizer(
        analyzer=_words_and_pairs,
        min_df=2,
        sublinear_tf=True,
        max_features=MAX_FEATURES,
        dtype=np.float32,
    )
    bias = np.where(targets.mean(0) >= 0.5, _SURE, -_SURE)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError:
        # scikit-learn's way of reporting that no word occurs in two texts.
        return TfidfModel([], np.zeros(0), np.zeros((4, 0)), bias)
    weights = np.zeros((4, matrix.shape[1]))
    for k, target in enumerate(targets.T):
        weight = balanced_weights(target)
        weights[k], bias[k] = fit_logistic(matrix, weight, inverse_penalty=INVERSE_PENALTY)
    names = vectorizer.get_feature_names_out().tolist()
    return TfidfModel(names, np.asarray(vectorizer.idf_, float), weights, bias)


def _words_and_pairs(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        words = find_words(line)
        yield from words
        yield from map(" ".join, pairwise(words))


def balanced_weights(targets: NDArray[Any]) -> Floats:
    """What each row counts as a negative and as a positive: [2, R, ...] for targets [R, ...].

    In each column both classes count alike. A row with a share as its target counts as both.
    """
    weight = np.stack([1.0 - targets, targets])
    of_class = weight.sum(1, keepdims=True)
    return np.asarray(weight * len(targets) / (2 * np.where(of_class, of_class, 1)))


def fit_logistic(
    features: Any, weight: Floats, *, inverse_penalty: float, has_bias: bool = True
) -> tuple[Floats, float]:
    """Coefficients [F] and bias of a logistic regression on features [R, F], dense or sparse.

    `weight` [2, R] is as `balanced_weights` returns it. Where all rows are of one class, that is
    the answer for every row.
    """
    from sklearn.linear_model import LogisticRegression

    classes, rows = weight.nonzero()
    if classes.min() == classes.max():
        return np.zeros(features.shape[1]), _SURE if classes[0] else -_SURE
    model = LogisticRegression(C=inverse_penalty, max_iter=1000, fit_intercept=has_bias)
    model.fit(features[rows], classes, sample_weight=weight[classes, rows])
    return model.coef_[0], float(model.intercept_[0]) if has_bias else 0.0
