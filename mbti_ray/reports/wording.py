"""Metrics and caveats in words, the same on a page and in a model card: plain text, not escaped.

Owns what a careful reader must know about a score. Must not know how it is laid out.
"""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mbti_ray.scores.findings import FindingRecord
from mbti_ray.scores.names import FEW_PERSONS
from mbti_ray.scores.verdict import is_significant
from mbti_ray.typology import DIMENSIONS

if TYPE_CHECKING:
    from mbti_ray.scores.scorecard import ResamplingInfo, Scorecard

HOW_TO_READ = (
    "MCC is 0 and AUROC is 0.5 for random guessing; Brier and ECE are errors of the probabilities, "
    "lower is better; AUROC is missing where the rows have one pole only."
)
SPLIT_BY_POST = (
    "The data were split by post: the same people are on both sides of the split, so these scores "
    "do not show how the model does on new people."
)
UNMASKED = (
    "The texts were not masked: people mention their own type, and the model may have learned to "
    "copy it."
)


# An underscore inside a word is only itself.
_MARKS = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)")


def plain(text: object) -> str:
    """The text on one line, with the special characters of Markdown and HTML escaped."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(text).split()))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def short(value: object) -> str:
    """A setting or a score with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_value_of(interval: Mapping[str, Any] | None) -> str:
    return number(interval["value"] if interval else None)


def format_bounds(interval: Mapping[str, Any] | None) -> str:
    """`0.861 to 0.910`, or nothing where there is no interval."""
    if interval is None or interval.get("low") is None or interval.get("high") is None:
        return ""
    return f"{number(interval['low'])} to {number(interval['high'])}"


def format_interval(interval: Mapping[str, Any] | None) -> str:
    """`0.887 (0.861 to 0.910)`."""
    bounds = format_bounds(interval)
    return f"{format_value_of(interval)} ({bounds})" if bounds else format_value_of(interval)


def caveats(card: "Scorecard", data_info: Mapping[str, Any] | None) -> list[str]:
    """What limits how far the scores of this card can be trusted."""
    sentences = []
    intervals = card["intervals"]
    if intervals["groups"] < FEW_PERSONS:
        persons = _count_persons(intervals)
        was = "was" if intervals["groups"] == 1 else "were"
        sentences.append(
            f"only {persons} {was} resampled: take the intervals as a rough guide."
            if intervals["resamples"]
            else f"the scores are of only {persons}."
        )
    return sentences + data_caveats(data_info or {})


def data_caveats(data_info: Mapping[str, Any]) -> list[str]:
    """What of the data limits how far scores on it can be trusted."""
    split = [SPLIT_BY_POST] if data_info.get("split_by") == "post" else []
    unmasked = [UNMASKED] if data_info.get("mask_version") == 0 else []
    return [*split, *data_info.get("warnings", []), *unmasked]


def describe_intervals(card: "Scorecard") -> str:
    """How many rows were scored, and what the intervals are."""
    intervals = card["intervals"]
    rows = f"{card['rows']:,} rows of {_count_persons(intervals)}"
    if intervals["groups"] == 1:
        return f"{rows}; with one person nothing can be resampled, so there are no intervals."
    if not intervals["resamples"]:
        return f"{rows}; no intervals were computed (scoring.resamples=0)."
    return (
        f"{rows}. Each score has its {100 * intervals['level']:g} % interval "
        f"({intervals['method']}; {intervals['resamples']:,} resamples). The ECE of few people is "
        "larger by chance, so its interval may lie above its value."
    )


def _count_persons(intervals: "ResamplingInfo") -> str:
    groups = intervals["groups"]
    return f"{groups:,} {intervals['resampled']}{'s' * (groups != 1)}"


def compare_with_baseline(card: "Scorecard") -> str:
    """The model against a baseline on the same rows, claiming no more than the evidence shows."""
    paired = card.get("paired")
    if not paired:
        return "No paired test was made, so no difference from a baseline is claimed."
    level = f"{100 * card['intervals']['level']:g} % interval"
    differences = [
        _difference(name, paired[key], level)
        for key, name in (
            ("accuracy", "mean accuracy"),
            ("macro_f1", "mean macro-F1"),
            ("all_four", "the share with all four correct"),
        )
        if paired.get(key)
    ]
    sentence = f"Against {paired['against']} on the same rows, {'; '.join(differences)}."
    if card["intervals"]["groups"] < FEW_PERSONS:
        sentence += f" With so few {card['intervals']['resampled']}s this is a rough guide."
    return f"{sentence} Test: {paired['test']}."


def _difference(name: str, difference: Mapping[str, Any], level: str) -> str:
    value, p = difference["value"], difference.get("p")
    bounds = format_bounds(difference)
    evidence = [f"{level} {bounds}"] if bounds else []
    if p is not None:
        evidence.append("p < 0.001" if p < 0.001 else f"p = {p:.3f}")
    direction = "higher" if value > 0 else "lower"
    size = f"{direction} by {number(abs(value))}" if value else "the same"
    shown = f" ({', '.join(evidence)})" if evidence else ""
    return f"{name} is {size}{shown}, {_chance(difference)}"


def _chance(difference: Mapping[str, Any]) -> str:
    if difference.get("p") is None and difference.get("low") is None:
        return "with no test of whether that is chance"
    return "more than chance explains" if is_significant(difference) else "which may be chance"


def _masking(data_info: Mapping[str, Any]) -> str:
    version = data_info.get("mask_version")
    if not version:
        return "not masked"
    also = data_info.get("mask_also") or ()
    hidden = ", ".join(["type words", "URLs", *also])
    return f"{hidden} masked (version {version})"


def source_name(source: str) -> str:
    """The source without its parent folders; a hub name keeps its owner."""
    path = PurePath(source)
    return path.name if path.is_absolute() or path.suffix else source


def data_table(data_info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known about the data, as names and values; no row is quoted."""
    bad = data_info.get("bad", 0)
    counts = {
        "bad rows left out": bad if isinstance(bad, int) else len(bad),
        "rows with repaired encoding": data_info.get("repaired", 0),
        "rows cut at the limit of windows": data_info.get("truncated", 0),
    }
    return [
        ("source", source_name(str(data_info.get("source", "unknown")))),
        ("fingerprint", str(data_info.get("fingerprint", "unknown"))),
        ("split by", str(data_info.get("split_by", "unknown"))),
        ("masking", _masking(data_info)),
        *((f"{split} rows", f"{n:,}") for split, n in (data_info.get("rows") or {}).items()),
        *((name, f"{count:,}") for name, count in counts.items() if count),
    ]


def finding_name(finding: FindingRecord) -> str:
    """`overfitting`, or `weak (J/P)` for a finding about one dimension."""
    about = [d.name for d in DIMENSIONS if d.key == finding["dimension"]]
    return " ".join([finding["name"], *(f"({name})" for name in about)])
