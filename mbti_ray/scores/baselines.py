"""What a model has to beat: answers that need no encoder.

A baseline is its answers for the evaluated rows, whatever they were made of; the scorecard counts
them as it counts the model's. scikit-learn is an extra, imported only where it is needed.

Shapes: N training rows, R evaluated rows, 4 dimensions in the order E/I, S/N, T/F, J/P.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.errors import ConfigError
from mbti_ray.typology import TYPES, labels_of

Answers = NDArray[np.bool_]

MAX_FEATURES = 200_000
# Of the logistic regression: 10 did better than 1 on tweets, a row being a tweet or a user.
INVERSE_PENALTY = 10.0

_LABELS = np.array([labels_of(t) for t in TYPES], dtype=bool)


@dataclass(frozen=True)
class Baseline:
    """Answers that a model is measured against.

    Attributes:
        name: As it stands in the scorecard.
        description: One line for readers.
        given: True where the positive pole was given, [R, 4].
        comparable: False for one that reads what the model may not, such as masked type words.
    """

    name: str
    description: str
    given: Answers
    comparable: bool = True


def majority(labels: NDArray[Any]) -> Baseline:
    """The commonest pole of these very rows [R, 4] in each dimension, the same for every row.

    The four poles together need not be the commonest type, so another constant answer can have
    more rows wholly right: `most_mentioned` without any mention is that of the commonest type.
    """
    poles = labels.astype(bool).mean(0) >= 0.5
    return Baseline(
        name="majority",
        description="the commonest pole of these very rows in each dimension",
        given=np.tile(poles, (len(labels), 1)),
    )


def most_mentioned(
    mentioned: NDArray[Any], labels: NDArray[Any], *, name: str, description: str, comparable: bool
) -> Baseline:
    """The type that each row mentions most, as a place in TYPES [R].

    A row that mentions none (-1) gets the commonest type of these very rows; of equally common
    ones the first in TYPES.
    """
    same = (labels.astype(bool)[:, None, :] == _LABELS).all(2)
    commonest = int(same.sum(0).argmax())
    given = _LABELS[np.where(mentioned < 0, commonest, mentioned)]
    return Baseline(name, description, given, comparable)


def tfidf(train_texts: Sequence[str], train_labels: NDArray[Any], texts: Sequence[str]) -> Baseline:
    """TF-IDF of words and word pairs, and a logistic regression for each dimension.

    Trained on labels [N, 4]. What cannot be learned is answered with the commonest pole in
    training: a dimension with one class, and all of them where no word stands in two texts.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    classify = _logistic(train_texts, texts)
    columns = [classify(label) for label in train_labels.astype(bool).T]
    return Baseline(
        name="tfidf",
        description="TF-IDF of words and word pairs with logistic regression",
        given=np.stack(columns, axis=1),
    )


def _logistic(
    train_texts: Sequence[str], texts: Sequence[str]
) -> Callable[[NDArray[np.bool_]], NDArray[np.bool_]]:
    """From the labels of one dimension in training [N] to its answers for the texts [R]."""
    try:
        from sklearn import feature_extraction, linear_model
    except ImportError as error:
        raise ConfigError(
            "the TF-IDF baseline needs scikit-learn: pip install 'mbti_ray[baselines]'"
        ) from error
    vectorizer = feature_extraction.text.TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=2,
        sublinear_tf=True,
        max_features=MAX_FEATURES,
        dtype=np.float32,
    )
    try:
        train = vectorizer.fit_transform(train_texts)
    except ValueError:
        # So scikit-learn says that no word stands in two texts.
        return lambda label: np.full(len(texts), label.mean() >= 0.5)
    evaluated = vectorizer.transform(texts)

    def classify(label: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if label.all() or not label.any():
            return np.full(len(texts), label[0])
        model = linear_model.LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
        return np.asarray(model.fit(train, label).predict(evaluated), dtype=bool)

    return classify
