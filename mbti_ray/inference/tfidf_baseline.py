"""TF-IDF as a baseline: what a model that was trained on the same rows predicts."""

from collections.abc import Sequence

from mbti_ray.model.tfidf import TfidfModel
from mbti_ray.scores.baselines import Baseline


def tfidf_baseline(model: TfidfModel, texts: Sequence[str]) -> Baseline:
    """The baseline for texts, as the model reads them."""
    return Baseline(
        name="tfidf",
        description="TF-IDF of words and word pairs with balanced logistic regression",
        predicted=model.logits([model.encode(text) for text in texts]) > 0,
    )
