"""What a scorecard amounts to, in one sentence: it claims no more than interval and test show."""

from collections.abc import Mapping
from typing import Any, Literal

from mbti_ray.scores.names import COMPARED_NAMES, FEW_PERSONS

_SIGNIFICANT_P = 0.05
BASELINE_NAMES = {"tfidf": "TF-IDF", "majority": "the majority class"}


def verdict(card: Mapping[str, Any], data_info: Mapping[str, Any] | None = None) -> str:
    """`0.583 a letter on 6 people: worse than TF-IDF (0.875); do not use it yet`.

    The description of the data tells whether these people are new.
    """
    groups, paired = card["intervals"]["groups"], card.get("paired")
    people = "1 person" if groups == 1 else f"{groups:,} people"
    if data_info is not None and data_info.get("split_by") == "post":
        people += " whose other posts it was trained on"
    start = f"{card['overall']['accuracy']['value']:.3f} a letter on {people}"
    if not paired or outcome_of(card) == "not compared":
        return f"{start}: not compared with any baseline"
    against, outcome = paired["against"], outcome_of(card)
    score = card["baselines"][against]["accuracy"]["value"]
    baseline = f"{BASELINE_NAMES.get(against, against)} ({score:.3f})"
    if outcome == "unclear":
        return f"{start}: no better than {baseline} as far as can be told; do not use it yet"
    if outcome == "worse":
        return f"{start}: worse than {baseline}; do not use it yet"
    few = "; with so few people a rough guide" if groups < FEW_PERSONS else ""
    return f"{start}: better than {baseline}, by more than chance explains{few}"


def outcome_of(card: Mapping[str, Any]) -> Literal["better", "worse", "unclear", "not compared"]:
    """How the model compares with the best baseline in accuracy."""
    difference = (card.get("paired") or {}).get("accuracy")
    if not difference:
        return "not compared"
    if not is_significant(difference):
        return "unclear"
    return "better" if difference["value"] > 0 else "worse"


def is_significant(difference: Mapping[str, Any]) -> bool:
    """Whether a paired difference is more than chance explains; without any test it is not."""
    low, high, p = (difference.get(key) for key in ("low", "high", "p"))
    if p is None and low is None:
        return False
    # Where interval and test disagree, the difference is not called significant.
    excludes_zero = low is None or high is None or low > 0 or high < 0
    return bool(excludes_zero and (p is None or p < _SIGNIFICANT_P))


def describe_paired(card: Mapping[str, Any]) -> str:
    """The model minus a baseline on the same rows, in each measure, with the test that was made."""
    paired = card.get("paired")
    if not paired:
        return "No paired test was made, so no difference from a baseline is claimed."
    differences = ", ".join(
        f"{COMPARED_NAMES[key]} {format_difference(paired[key])}"
        for key in ("accuracy", "macro_f1", "all_four")
        if paired.get(key)
    )
    return f"Against {paired['against']} on the same rows: {differences} [{paired['test']}]"


def format_difference(difference: Mapping[str, Any]) -> str:
    """`+0.039 (+0.020 to +0.058, p 0.012)`."""
    evidence = []
    if difference.get("low") is not None and difference.get("high") is not None:
        evidence.append(f"{difference['low']:+.3f} to {difference['high']:+.3f}")
    if difference.get("p") is not None:
        evidence.append(f"p {difference['p']:.2g}")
    return f"{difference['value']:+.3f}" + (f" ({', '.join(evidence)})" if evidence else "")
