"""The page of one or more scorecards: scores with intervals, baselines, charts, diagnosis.

Takes plain records as scores.json holds them; must not know where they come from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mbti_ray.reports import charts, wording
from mbti_ray.reports.hero import About, score_tiles
from mbti_ray.reports.html import render_page
from mbti_ray.scores.findings import FindingRecord
from mbti_ray.scores.mistakes import Mistake
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.scores.verdict import verdict

# A JSON object of scores.json or of the description of the data.
Record = Mapping[str, Any]


def scorecard_page(
    title: str,
    scorecards: Mapping[str, Scorecard],
    *,
    kind: str,
    about: About,
    calibration: Record | None = None,
    findings: Sequence[FindingRecord] = (),
    history: Sequence[Record] = (),
    data_info: Record | None = None,
    groups: Mapping[str, Mapping[str, float]] | None = None,
    mistakes: Sequence[Mistake] = (),
    links: Sequence[str] = (),
) -> str:
    """The page; charts are those of the first scorecard.

    Args:
        kind: What the page is of, such as "run".
        groups: Scores of the rows by what they were to the bundle, such as seen in training.
        links: Files and folders next to the page.
    """
    split, main = next(iter(scorecards.items()))
    return render_page(
        "scorecard.html",
        title=title,
        kind=kind,
        conclusions=[f"{verdict(main, data_info)}."],
        caveats=wording.caveats(main, data_info),
        tiles=score_tiles(main, split=split),
        facts=about.facts,
        links=links,
        commands=about.commands(),
        scorecards=scorecards,
        groups=groups,
        mistakes=mistakes,
        main=main,
        reliability=charts.reliability(main["dimensions"]),
        calibration=calibration,
        curves=charts.learning_curves(history),
        findings=findings,
        data_info=data_info,
    )
