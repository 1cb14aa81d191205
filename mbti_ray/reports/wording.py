"""How figures are said in words, the same on a page and in a card: plain text, not escaped.

Owns what a careful reader must be told beside a score. Must not know how it is laid out.
"""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mbti_ray.typology import DIMENSIONS

Figures = Mapping[str, Any]

# A percentile bootstrap of fewer groups is too narrow to be taken at its word.
FEW_GROUPS = 20
_CHANCE = 0.05

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "brier": "Brier",
    "ece": "ECE",
}
HOW_TO_READ = (
    "MCC is 0 and AUROC is 0.5 for guessing; Brier and ECE are errors of the probabilities, lower "
    "is better; AUROC is missing where the rows have one pole only."
)
STRANGERS = (
    "The data were split by post: the same people stand on both sides of the split, so these "
    "scores do not tell how the model does on strangers."
)
UNMASKED = (
    "The texts were not masked: people name their own type, and the model may have learned to "
    "read it off."
)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def value_of(estimate: Figures | None) -> str:
    return number(estimate["value"] if estimate else None)


def interval_of(estimate: Figures | None) -> str:
    """`0.861 to 0.910`, or nothing where there is no interval."""
    if estimate is None or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{number(estimate['low'])} to {number(estimate['high'])}"


def with_interval(estimate: Figures | None) -> str:
    """`0.887 (0.861 to 0.910)`."""
    interval = interval_of(estimate)
    return f"{value_of(estimate)} ({interval})" if interval else value_of(estimate)


def cautions(card: Figures, facts: Figures | None) -> list[str]:
    """What must be known before any score of this card is believed."""
    said = []
    intervals = card["intervals"]
    if intervals["groups"] < FEW_GROUPS:
        people = _people(intervals)
        was = "was" if intervals["groups"] == 1 else "were"
        said.append(
            f"only {people} {was} resampled: take the intervals as a rough guide."
            if intervals["resamples"]
            else f"the scores rest on only {people}."
        )
    if facts is not None and facts.get("split_by") == "post":
        said.append(STRANGERS)
    if facts is not None and facts.get("mask_version") == 0:
        said.append(UNMASKED)
    return said


def about_intervals(card: Figures) -> str:
    """How many rows, and what the intervals are."""
    intervals = card["intervals"]
    rows = f"{card['rows']:,} rows of {_people(intervals)}"
    if intervals["groups"] == 1:
        return f"{rows}; with one person nothing can be resampled, so there are no intervals."
    if not intervals["resamples"]:
        return f"{rows}; no intervals were computed (scoring.resamples=0)."
    return (
        f"{rows}. Beside each score its {100 * intervals['level']:g} % interval "
        f"({intervals['method']}; {intervals['resamples']:,} resamples). The ECE of few people is "
        "larger by chance, so its interval may lie above its value."
    )


def _people(intervals: Figures) -> str:
    groups = intervals["groups"]
    return f"{groups:,} {intervals['resampled']}{'s' * (groups != 1)}"


def paired_sentence(card: Figures) -> str:
    """The model against a baseline on the same rows, claiming no more than the figures show."""
    paired = card.get("paired")
    if not paired:
        return "No paired test was made, so no difference to a baseline is claimed."
    level = f"{100 * card['intervals']['level']:g} % interval"
    differences = [
        _difference(name, paired[key], level)
        for key, name in (
            ("accuracy", "mean accuracy"),
            ("all_four", "the share with all four right"),
        )
        if paired.get(key)
    ]
    said = f"Against {paired['against']} on the same rows, {'; '.join(differences)}."
    if card["intervals"]["groups"] < FEW_GROUPS:
        said += f" With so few {card['intervals']['resampled']}s this is a rough guide."
    return f"{said} Test: {paired['test']}."


def _difference(name: str, difference: Figures, level: str) -> str:
    value, p = difference["value"], difference.get("p")
    interval = interval_of(difference)
    evidence = [f"{level} {interval}"] if interval else []
    if p is not None:
        evidence.append("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
    direction = "higher" if value > 0 else "lower"
    size = f"{direction} by {number(abs(value))}" if value else "the same"
    shown = f" ({', '.join(evidence)})" if evidence else ""
    return f"{name} is {size}{shown}, {_verdict(difference)}"


def _verdict(difference: Figures) -> str:
    low, high, p = (difference.get(key) for key in ("low", "high", "p"))
    if p is None and low is None:
        return "which nothing shows to be more than chance"
    # Where the two disagree the difference is not called clear.
    excludes_none = low is None or high is None or low > 0 or high < 0
    is_clear = excludes_none and (p is None or p < _CHANCE)
    return "more than chance explains" if is_clear else "which may be chance"


def masking(facts: Figures) -> str:
    version = facts.get("mask_version")
    if not version:
        return "not masked"
    also = facts.get("mask_also") or ()
    hidden = ", ".join(["type words", "URLs", *also])
    return f"{hidden} masked (version {version})"


def source_name(source: str) -> str:
    """The source without the folders that lead to it; a hub name keeps its owner."""
    path = PurePath(source)
    return path.name if path.is_absolute() or path.suffix else source


def data_rows(facts: Figures) -> list[tuple[str, str]]:
    """What is known of the data, a name and a value each; no row is quoted."""
    bad = facts.get("bad", 0)
    counts = {
        "bad rows left out": bad if isinstance(bad, int) else len(bad),
        "rows with repaired encoding": facts.get("repaired", 0),
        "rows cut at the limit of windows": facts.get("truncated", 0),
    }
    return [
        ("source", source_name(str(facts.get("source", "unknown")))),
        ("fingerprint", str(facts.get("fingerprint", "unknown"))),
        ("split by", str(facts.get("split_by", "unknown"))),
        ("masking", masking(facts)),
        *((f"{split} rows", f"{n:,}") for split, n in (facts.get("rows") or {}).items()),
        *((name, f"{count:,}") for name, count in counts.items() if count),
    ]


def finding_name(finding: Figures) -> str:
    """`overfitting`, or `weak (J/P)` for a finding about one dimension."""
    about = [d.name for d in DIMENSIONS if d.key == finding["dimension"]]
    return " ".join([finding["name"], *(f"({name})" for name in about)])


def setting(address: str, value: object) -> str:
    """`optim.lr=3e-05`, as it is given on the command line."""
    said = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return f"{address}={said}"
