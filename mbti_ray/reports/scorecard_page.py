"""The page of one or more scorecards, and the top of every page: what it is about, and main scores.

Takes plain records as scores.json holds them; must not know where they come from.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mbti_ray import __version__
from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import charts, wording
from mbti_ray.reports.charts import Record
from mbti_ray.reports.html import render_page
from mbti_ray.scores.findings import FindingRecord
from mbti_ray.scores.scorecard import Mistake, Scorecard
from mbti_ray.scores.verdict import BASELINE_NAMES, verdict


class Tile(NamedTuple):
    """A number in large print; `below` is its interval or where it comes from."""

    name: str
    value: str
    below: str = ""


class About(NamedTuple):
    """What a page is about: a config, the `place` of a run, study or bundle, and the date."""

    config: RunConfig
    place: str
    created: str

    @property
    def facts(self) -> list[tuple[str, str]]:
        model = self.config.model
        return [
            ("data", wording.source_name(self.config.data.source)),
            ("model", wording.describe_model(model)),
            ("date", self.created),
            ("version", f"mbti_ray {__version__}"),
        ]

    def commands(self) -> list[str]:
        """Commands that use the model."""
        place = shlex.quote(self.place)
        return [
            f"mbti-ray serve {place}",
            f'mbti-ray predict {place} "I would rather read than go out."',
            f"mbti-ray evaluate {place} data.source=FILE",
        ]


def score_tiles(card: Scorecard, *, split: str) -> list[Tile]:
    """Mean accuracy of the model and of the baselines that have a name."""
    found = {f"accuracy a letter ({split})": card["overall"]["accuracy"]}
    for name, rates in (card.get("baselines") or {}).items():
        if name in BASELINE_NAMES:
            found[BASELINE_NAMES[name]] = rates["accuracy"]
    return [
        Tile(title, wording.format_value_of(mean), wording.format_bounds(mean))
        for title, mean in found.items()
    ]


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
