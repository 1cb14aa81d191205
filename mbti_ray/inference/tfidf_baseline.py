"""TF-IDF as a baseline: trained on the rows that the model was trained on."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mbti_ray.model.tfidf import TfidfModel, fit_tfidf
from mbti_ray.scores.baselines import Baseline


def train_tfidf_baseline(
    train_texts: Sequence[str], train_labels: NDArray[Any], texts: Sequence[str]
) -> Baseline:
    """The baseline for texts, of a model trained on 0/1 labels [N, 4]; see `fit_tfidf`."""
    return tfidf_baseline(fit_tfidf(train_texts, train_labels), texts)


def tfidf_baseline(model: TfidfModel, texts: Sequence[str]) -> Baseline:
    """What a trained model predicts for texts."""
    return Baseline(
        name="tfidf",
        description="TF-IDF of words and word pairs with balanced logistic regression",
        predicted=model.logits([model.encode(text) for text in texts]) > 0,
    )
