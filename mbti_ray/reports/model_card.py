"""The model card: what a bundle is, what it was made of, how well it does, what it is not for.

The headings are those of Mitchell et al. 2019, "Model Cards for Model Reporting"; the front matter
is the one that model hubs read. Takes plain figures, and quotes no row of the data.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import wording
from mbti_ray.typology import DIMENSIONS

Figures = Mapping[str, Any]

NOT_FOR_DECISIONS = (
    "It is no basis for decisions about people: not for hiring, not for grading, not for treating "
    "or diagnosing, and not for telling somebody who they are."
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
# As `config.data.source` says it.
_BUILTIN = "builtin"
_HEADER = [*(d.name for d in DIMENSIONS), "mean"]
_RATES = {d.key: d.name for d in DIMENSIONS} | {
    "accuracy": "mean",
    "all_four": "all four",
    "at_least_three": "at least three",
}


def model_card(
    *,
    bundle_id: str,
    config: RunConfig,
    facts: Figures,
    scores: Figures,
    versions: Mapping[str, str],
) -> str:
    """The card in Markdown, of a run's scores and of the data that it was trained on."""
    card = scores["scorecard"]
    sections = {
        "Model details": _details(config, versions),
        "Intended use": _use(),
        "Data": _data(config, facts),
        "Training": _training(config, scores),
        "Scores": _scores(card, facts),
        "Calibration": _calibration(scores.get("calibration")),
        "Diagnosis": _diagnosis(scores.get("diagnosis") or ()),
        "Limits": _limits(config, facts),
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
        f"it gives four probabilities: of {poles}. Written and read by `mbti_ray`."
    )
    model = config.model
    rows = [
        ("encoder", wording.source_name(model.encoder)),
        ("pooling", model.pooling),
        ("tokens a window", f"{model.max_tokens}"),
        ("windows of one row", f"at most {config.data.max_windows}"),
        *versions.items(),
    ]
    yield _table(["", "what"], rows)


def _use() -> Iterator[str]:
    yield (
        "For research on text classification, for teaching, and for looking at one's own texts out "
        "of curiosity."
    )
    yield f"**Not for decisions.** {NOT_FOR_DECISIONS}"


def _data(config: RunConfig, facts: Figures) -> Iterator[str]:
    yield f"One row is {_unit(config)}."
    yield _table(["", "what"], wording.data_rows(facts))
    if facts.get("split_by") == "post":
        yield f"**{wording.STRANGERS}**"
    if facts.get("mask_version") == 0:
        yield f"**{wording.UNMASKED}**"
    yield _people(config)


def _unit(config: RunConfig) -> str:
    return "all posts of a user" if config.data.unit == "user" else "one post"


def _people(config: RunConfig) -> str:
    if config.data.source == _BUILTIN:
        return (
            "There are no people in these data: the texts are generated, for trying the program "
            "out. Nothing about people follows from scores on them."
        )
    return (
        "The people in the data are those who wrote and, as a rule, named a type for themselves. "
        "They are not a sample of any population: some types may be far commoner among them than "
        "elsewhere. Their age, country, education and first language are not recorded, so there "
        "are no scores for groups of them."
    )


def _training(config: RunConfig, scores: Figures) -> Iterator[str]:
    optim, fit, loss = config.optim, config.fit, config.loss
    rows = [
        ("seed", config.seed),
        ("trained parts", config.model.trainable),
        ("dropout", config.model.dropout),
        ("loss", loss.kind),
        ("pos_weight", loss.pos_weight),
        ("optimiser", f"AdamW, weight decay {optim.weight_decay:g}"),
        ("learning rate", f"{optim.lr:g} (heads {optim.head_lr or optim.lr:g})"),
        ("warm-up steps", optim.warmup_steps),
        ("windows an optimiser step", fit.step_size),
        ("precision", fit.precision),
        ("epochs", f"at most {fit.epochs}, patience {fit.patience}"),
        ("best epoch", f"{scores.get('best_epoch', '-')}, by {fit.monitor} on validation"),
    ]
    yield _table(["", "value"], [(name, str(value)) for name, value in rows])


def _scores(card: Figures, facts: Figures) -> Iterator[str]:
    yield f"On the test split: {wording.about_intervals(card)}"
    # What is said of the data stands there.
    yield from (f"**Careful:** {_plain(text)}" for text in wording.cautions(card, None))
    dimensions, overall = card["dimensions"], card["overall"]
    columns = [*(dimensions[d.key] for d in DIMENSIONS), overall]
    rows = [
        (name, *(wording.with_interval(column.get(metric)) for column in columns))
        for metric, name in wording.METRICS.items()
    ]
    yield _table(["", *_HEADER], rows)
    yield wording.HOW_TO_READ
    yield "Accuracy beside what needs no encoder, on the same rows:"
    yield _table(["", *_RATES.values()], _beside(card))
    described = {name: base["description"] for name, base in (card.get("baselines") or {}).items()}
    missing = {name: f"missing: {why}" for name, why in (card.get("missing") or {}).items()}
    yield _bullets(
        f"{_plain(name)}: {_plain(text)}" for name, text in (described | missing).items()
    )
    yield _plain(wording.paired_sentence(card))


def _beside(card: Figures) -> Iterator[Sequence[str]]:
    dimensions, overall = card["dimensions"], card["overall"]
    own = {d.key: dimensions[d.key]["accuracy"] for d in DIMENSIONS} | dict(overall)
    named = {"this model": own} | dict(card.get("baselines") or {})
    for name, rates in named.items():
        yield [name, *(wording.with_interval(rates.get(key)) for key in _RATES)]


def _calibration(calibration: Figures | None) -> Iterator[str]:
    if calibration is None:
        return
    yield (
        "Fitted on the validation split; logits are divided by the temperature, and a probability "
        f"above the threshold is the first pole (chosen for: {calibration['threshold_objective']})."
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
        yield (
            f"A probability nearer to its threshold than {calibration['abstain']:g} is answered X."
        )


def _diagnosis(findings: Iterable[Figures]) -> Iterator[str]:
    said = [f"{_plain(wording.finding_name(f))}: {_plain(f['evidence'])}" for f in findings]
    if said:
        yield _bullets(said)


def _limits(config: RunConfig, facts: Figures) -> Iterator[str]:
    limits = [
        "Labels of this kind are self-reported: what people say of themselves, unchecked.",
        "The type indicator itself is weak: many people get another type when they fill it in "
        "again a few weeks later, and it cuts scales in two where most people stand near the "
        "middle (Pittenger 2005). No model of its letters can be better than they are.",
        "A probability is about the label in data like these, not about a person.",
        "Other topics, languages, times and platforms than those of the data were not tried.",
    ]
    if config.data.source != _BUILTIN:
        limits.append(
            "People of the commoner types are usually answered better; read the balanced figures, "
            "and the baselines, before the accuracy."
        )
    if facts.get("mask_version"):
        limits.append(
            "Masking hides type words and URLs, not every hint: talk about a type's traits stays."
        )
    yield _bullets(limits)


def _how_to_use() -> Iterator[str]:
    yield (
        "```python\nfrom mbti_ray import MBTIClassifier\n\n"
        'classifier = MBTIClassifier.load_from_checkpoint("FOLDER")  # the one with this card\n'
        'classifier.predict_proba("I would rather read than go out.")  # E, N, T, J\n```'
    )
    yield (
        "`python -m mbti_ray.evaluate FOLDER data.source=FILE` scores it on labelled rows of your "
        "own: do that before you believe it there."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *(map(_plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _plain(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would take for its own."""
    line = " ".join(text.split())
    return _MARKS.sub(r"\\\g<0>", line)
