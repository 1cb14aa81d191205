"""The model card: what a bundle is, how it was trained, how well it does, what it is not for.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting"; the front matter is the
one that model hubs read. Takes plain records, and must not quote any row of the data.
"""

import re
from collections.abc import Mapping
from typing import Any

from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import wording
from mbti_ray.reports.html import render_text
from mbti_ray.scores.names import COMPARED_NAMES, METRIC_NAMES, rates_of
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.scores.verdict import verdict
from mbti_ray.typology import DIMENSIONS

# A JSON object of scores.json or of the description of the data.
Record = Mapping[str, Any]

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
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
