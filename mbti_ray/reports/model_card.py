"""The model card: what a bundle is, how it was trained, how well it does, what it is not for.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting"; the front matter is the
one that model hubs read. Takes plain records, and must not quote any row of the data.
"""

import re
from collections.abc import Mapping
from typing import Any

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import wording
from mbti_ray.reports.charts import Record
from mbti_ray.reports.html import render_text
from mbti_ray.scores.names import COMPARED_NAMES, METRIC_NAMES, rates_of
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.scores.verdict import verdict
from mbti_ray.typology import DIMENSIONS

# The base model as hubs call it, where `model.encoder` has another name; None where there is none.
_BASE_MODELS = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "tiny": None}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "mcc": "matthews_correlation",
    "auroc": "roc_auc",
    "brier": "brier_score",
}

NOT_FOR_DECISIONS = (
    "It is no basis for decisions about people: not for hiring, grading, treatment or diagnosis, "
    "and not for telling people who they are."
)


def model_card(
    *,
    bundle_id: str,
    config: RunConfig,
    data_info: Record,
    scores: Record,
    versions: Mapping[str, str],
) -> str:
    """The card in Markdown, from a run's scores and a description of its data."""
    card: Scorecard = scores["scorecard"]
    columns = [*(card["dimensions"][d.key] for d in DIMENSIONS), card["overall"]]
    rates = {"this model": rates_of(card)} | (card.get("baselines") or {})
    calibration: Any = scores.get("calibration")
    text = render_text(
        "card.md",
        bundle_id=bundle_id,
        verdict=verdict(card, data_info),
        config=config,
        data_info={"mask_version": None, **data_info},
        is_builtin=config.data.source == "builtin",
        not_for_decisions=NOT_FOR_DECISIONS,
        scores=scores,
        versions=versions,
        card=card,
        metrics=[
            (name, *(wording.format_interval(column.get(key)) for column in columns))
            for key, name in METRIC_NAMES.items()
        ],
        accuracies=[
            (name, *(wording.format_interval(found.get(key)) for key in COMPARED_NAMES))
            for name, found in rates.items()
        ],
        calibration=calibration,
        fitted=[
            (f"{d.positive} / {d.negative}", *(wording.number(calibration[key][k]) for key in keys))
            for keys in [("temperature", "thresholds")]
            for k, d in enumerate(DIMENSIONS if calibration else ())
        ],
        findings=scores.get("diagnosis"),
    )
    return _spaced(text)


def hub_card(
    card: str,
    manifest: Record,
    *,
    library: str,
    license_id: str | None = None,
    language: str | None = None,
    usage: Record | None = None,
) -> str:
    """A bundle's card as model hubs read it: license, languages, base model, scores on top.

    Args:
        card, manifest: card.md and bundle.json of the bundle.
        library: What loads the repository or folder.
        usage: Of `transformers_usage.md`, which then replaces the card's last section.
    """
    from huggingface_hub import ModelCardData

    # Cards of before have a front matter of their own.
    body = "# " + card.partition("# ")[2]
    if usage is not None:
        body = body.partition("## How to use")[0] + render_text("transformers_usage.md", **usage)
    encoder, source = manifest["model"]["encoder"], manifest["data"]["source"]
    is_builtin = source == "builtin"
    data = ModelCardData(
        model_name=f"mbti_ray {manifest['id']}",
        library_name=library,
        pipeline_tag="text-classification",
        license=license_id or "unknown",
        language=language or ("en" if is_builtin else None),
        base_model=_BASE_MODELS.get(encoder, encoder if _HUB_NAME.fullmatch(encoder) else None),
        tags=["mbti", "personality", "multi-label-classification"],
        eval_results=_evaluations(manifest["scores"].get("scorecard"), source),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_spaced(body)}"


def _evaluations(card: Scorecard | None, source: str) -> list[Any]:
    """What a hub shows of a scorecard: accuracies a letter, and the means of other metrics."""
    from huggingface_hub import EvalResult

    if card is None:
        return []
    overall: Any = card["overall"]
    found = [(name, overall.get(key), METRIC_NAMES[key]) for key, name in _HUB_METRICS.items()]
    found.append(("accuracy", overall.get("all_four"), "all four right"))
    found += [("accuracy", card["dimensions"][d.key]["accuracy"], d.name) for d in DIMENSIONS]
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=wording.source_name(source),
            dataset_name=wording.source_name(source),
            dataset_split="test",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value["value"], 4),
        )
        for metric, value, name in found
        if value is not None
    ]


def _spaced(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
