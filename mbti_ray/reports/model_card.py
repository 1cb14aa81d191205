"""The model card: what a bundle is, how it was trained, how well it does, what it is not for.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting"; the front matter is the
one that model hubs read. Takes plain records, and must not quote any row of the data.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import wording
from mbti_ray.scores.findings import FindingRecord
from mbti_ray.scores.names import COMPARED_NAMES, METRIC_NAMES
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.typology import DIMENSIONS

# A JSON object of scores.json or of the description of the data.
Record = Mapping[str, Any]

NOT_FOR_DECISIONS = (
    "It is no basis for decisions about people: not for hiring, grading, treatment or diagnosis, "
    "and not for telling people who they are."
)
_FRONT_MATTER = """---
pipeline_tag: text-classification
tags:
- mbti
- personality
- multi-label-classification
metrics:
- accuracy
- f1
- matthews_correlation
- roc_auc
- brier_score
---"""
# An underscore inside a word is only itself.
_MARKS = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)")
# The value of `data.source`.
_BUILTIN = "builtin"
_HEADER = [*(d.name for d in DIMENSIONS), "mean"]


def model_card(
    *,
    bundle_id: str,
    config: RunConfig,
    data_info: Record,
    scores: Record,
    versions: Mapping[str, str],
) -> str:
    """The card in Markdown, from a run's scores and a description of its data."""
    card = scores["scorecard"]
    sections = {
        "Model details": _details(config, versions),
        "Intended use": _use(),
        "Data": _data(config, data_info),
        "Training": _training(config, scores),
        "Scores": _scores(card, data_info),
        "Calibration": _calibration(scores.get("calibration")),
        "Diagnosis": _diagnosis(scores.get("diagnosis") or ()),
        "Limits": _limits(config, data_info),
        "How to use": _how_to_use(),
    }
    title = f"# Four letters from text: bundle {bundle_id}"
    parts = [_FRONT_MATTER, title]
    for heading, paragraphs in sections.items():
        body = "\n\n".join(paragraphs)
        if body:
            parts.append(f"## {heading}\n\n{body}")
    return "\n\n".join(parts) + "\n"


def _details(config: RunConfig, versions: Mapping[str, str]) -> Iterator[str]:
    poles = ", ".join(f"{d.positive} rather than {d.negative}" for d in DIMENSIONS)
    yield (
        "A text encoder with four binary heads. For a text, or for all posts of a person together, "
        f"it predicts four probabilities: of {poles}. Written and loaded by `mbti_ray`."
    )
    model = config.model
    rows = [
        ("encoder", wording.source_name(model.encoder)),
        ("pooling", model.pooling),
        ("tokens per window", f"{model.max_tokens}"),
        ("windows per row", f"at most {config.data.max_windows}"),
        *versions.items(),
    ]
    yield _table(["", "value"], rows)


def _use() -> Iterator[str]:
    yield (
        "For research on text classification, for teaching, and for curiosity about one's own "
        "texts."
    )
    yield f"**Not for decisions.** {NOT_FOR_DECISIONS}"


def _data(config: RunConfig, data_info: Record) -> Iterator[str]:
    yield f"One row is {_unit(config)}."
    yield _table(["", "value"], wording.data_table(data_info))
    if data_info.get("split_by") == "post":
        yield f"**{wording.SPLIT_BY_POST}**"
    yield from (f"**{_plain(text)}**" for text in data_info.get("warnings", []))
    if data_info.get("mask_version") == 0:
        yield f"**{wording.UNMASKED}**"
    yield _people(config)


def _unit(config: RunConfig) -> str:
    return "all posts of a user" if config.data.unit == "user" else "one post"


def _people(config: RunConfig) -> str:
    if config.data.source == _BUILTIN:
        return (
            "There are no people in these data: the texts are generated, to try out the program. "
            "Scores on them show nothing about people."
        )
    return (
        "The people in the data wrote the texts and, as a rule, reported their own type. They are "
        "not a sample of any population: some types may be far more common among them than "
        "elsewhere. Their age, country, education and first language are not recorded, so there "
        "are no scores for groups of them."
    )


def _training(config: RunConfig, scores: Record) -> Iterator[str]:
    optim, fit, loss = config.optim, config.fit, config.loss
    rows = [
        ("seed", config.seed),
        ("trainable", config.model.trainable),
        ("dropout", config.model.dropout),
        ("loss", loss.kind),
        ("pos_weight", loss.pos_weight),
        ("optimizer", f"AdamW, weight decay {optim.weight_decay:g}"),
        ("learning rate", f"{optim.lr:g} (heads {config.head_lr:g})"),
        ("warm-up steps", optim.warmup_steps),
        ("windows per optimizer step", fit.step_size),
        ("precision", fit.precision),
        ("epochs", f"at most {fit.epochs}, patience {fit.patience}"),
        ("best epoch", f"{scores.get('best_epoch', '-')}, by {fit.monitor} on validation"),
    ]
    yield _table(["", "value"], [(name, str(value)) for name, value in rows])


def _scores(card: Scorecard, data_info: Record) -> Iterator[str]:
    yield f"On the test split: {wording.describe_intervals(card)}"
    # Caveats about the data are in that section.
    yield from (f"**Careful:** {_plain(text)}" for text in wording.caveats(card, None))
    dimensions, overall = card["dimensions"], card["overall"]
    columns = [*(dimensions[d.key] for d in DIMENSIONS), overall]
    rows = [
        (name, *(wording.format_interval(column.get(metric)) for column in columns))
        for metric, name in METRIC_NAMES.items()
    ]
    yield _table(["", *_HEADER], rows)
    yield wording.HOW_TO_READ
    yield "Accuracy and mean macro-F1, next to baselines that need no encoder, on the same rows:"
    yield _table(["", *COMPARED_NAMES.values()], _accuracies(card))
    described = {name: base["description"] for name, base in (card.get("baselines") or {}).items()}
    missing = {name: f"missing: {why}" for name, why in (card.get("missing") or {}).items()}
    yield _bullets(
        f"{_plain(name)}: {_plain(text)}" for name, text in (described | missing).items()
    )
    yield _plain(wording.compare_with_baseline(card))


def _accuracies(card: Scorecard) -> Iterator[Sequence[str]]:
    dimensions, overall = card["dimensions"], card["overall"]
    own = {d.key: dimensions[d.key]["accuracy"] for d in DIMENSIONS} | dict(overall)
    named = {"this model": own} | dict(card.get("baselines") or {})
    for name, rates in named.items():
        yield [name, *(wording.format_interval(rates.get(key)) for key in COMPARED_NAMES)]


def _calibration(calibration: Record | None) -> Iterator[str]:
    if calibration is None:
        return
    yield (
        "Fitted on the validation split: logits are divided by the temperature, and a probability "
        "above the threshold predicts the first pole (threshold chosen for: "
        f"{calibration['threshold_objective']})."
    )
    fitted = zip(DIMENSIONS, calibration["temperature"], calibration["thresholds"], strict=True)
    rows = [(f"{d.positive} / {d.negative}", *map(wording.number, pair)) for d, *pair in fitted]
    yield _table(["", "temperature", "threshold"], rows)
    before, after = calibration.get("before"), calibration.get("after")
    if before and after:
        brier, ece = (
            f"{wording.number(before[name])} before and {wording.number(after[name])} after"
            for name in ("brier", "ece")
        )
        yield f"On the test split: Brier {brier}; ECE {ece}."
    if calibration.get("abstain"):
        yield (f"A probability closer to its threshold than {calibration['abstain']:g} predicts X.")


def _diagnosis(findings: Iterable[FindingRecord]) -> Iterator[str]:
    items = [f"{_plain(wording.finding_name(f))}: {_plain(f['evidence'])}" for f in findings]
    if items:
        yield _bullets(items)


def _limits(config: RunConfig, data_info: Record) -> Iterator[str]:
    limits = [
        "Labels of this kind are self-reported and unverified.",
        "The type indicator itself is weak: many people get another type when they retake it a few "
        "weeks later, and it splits scales in two at the middle, where most people are (Pittenger "
        "2005). No model of its letters can be better than they are.",
        "A probability is about the label in data like these, not about a person.",
        "Topics, languages, times and platforms other than those of the data were not tested.",
    ]
    if config.data.source != _BUILTIN:
        limits.append(
            "Predictions for people of common types are usually better; read the balanced metrics "
            "and the baselines before the accuracy."
        )
    if data_info.get("mask_version"):
        limits.append(
            "Masking hides type words and URLs, not every hint: mentions of a type's traits remain."
        )
    yield _bullets(limits)


def _how_to_use() -> Iterator[str]:
    yield (
        "```python\nfrom mbti_ray import MBTIClassifier\n\n"
        'classifier = MBTIClassifier.load_from_checkpoint("FOLDER")  # the one with this card\n'
        'classifier.predict_proba("I would rather read than go out.")  # E, N, T, J\n```'
    )
    yield (
        "`python -m mbti_ray.evaluate FOLDER data.source=FILE` scores it on your own labeled rows: "
        "do that before you trust it there."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *(map(_plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _plain(text: str) -> str:
    """The text on one line, with the special characters of Markdown and HTML escaped."""
    line = " ".join(text.split())
    return _MARKS.sub(r"\\\g<0>", line)
