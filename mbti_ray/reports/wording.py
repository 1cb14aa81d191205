"""Metrics and caveats in words, the same on a page and in a model card: plain text, not escaped."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mbti_ray.errors import counted
from mbti_ray.scores.names import FEW_PERSONS

if TYPE_CHECKING:
    from mbti_ray.config.schema import ModelConfig, RunConfig
    from mbti_ray.scores.scorecard import Scorecard

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


_TFIDF = "TF-IDF of words and word pairs with balanced logistic regression"
# What the model card says that a model is, by its reader.
KIND_OF_MODEL = dict.fromkeys(("windows", "posts"), "A text encoder with four binary heads.") | {
    "tfidf": f"{_TFIDF}.",
    "stack": f"A text encoder with four binary heads, and {_TFIDF}; a logistic regression combines "
    "their logits, with the same two weights in all dimensions.",
}


# An underscore inside a word is only itself.
_MARKS = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)")


def plain(text: object) -> str:
    """The text on one line, with the special characters of Markdown and HTML escaped."""
    return _MARKS.sub(r"\\\g<0>", " ".join(str(text).split()))


def describe_test(config: "RunConfig") -> str:
    """Which rows a run was scored on."""
    folds = config.data.folds
    if folds is None or not config.data.trains_on_all:
        return "On the test split"
    return (
        f"On all rows, each predicted by the one of {folds} runs that was not trained on its "
        "person (this bundle was trained on all of them afterwards)"
    )


def describe_model(model: "ModelConfig") -> str:
    """`minilm, mean pooling`, or what else reads the texts."""
    encoder = f"{source_name(model.encoder)}, {model.pooling} pooling"
    return {"tfidf": _TFIDF, "stack": f"stack of TF-IDF and {encoder}"}.get(model.reader, encoder)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


LENGTH_HEADER = ("tokens", "rows", "mean confidence", "accuracy", "ECE")


def length_rows(bins: Sequence[Mapping[str, float]]) -> list[tuple[str, ...]]:
    """The rows of a table of `Scorecard.lengths`."""
    return [
        (
            f"{b['low']:,} to {b['high']:,}",
            f"{b['rows']:,}",
            *(number(b[key]) for key in ("confidence", "accuracy", "ece")),
        )
        for b in bins
    ]


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


def _count_persons(intervals: Mapping[str, Any]) -> str:
    return counted(intervals["groups"], intervals["resampled"])


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
