"""The top of every page: what a run is, its main scores next to baselines, and what to do with it.

Must not know the rest of the page.
"""

import shlex
from typing import NamedTuple

from mbti_ray import __version__
from mbti_ray.config.schema import RunConfig
from mbti_ray.reports import wording
from mbti_ray.scores.scorecard import Scorecard
from mbti_ray.scores.verdict import BASELINE_NAMES


class Tile(NamedTuple):
    """A number in large print; `below` is its interval or where it comes from."""

    name: str
    value: str
    below: str = ""


class About(NamedTuple):
    """What a page is about.

    Attributes:
        place: The run, study or bundle, as a command takes it.
        created: A date.
    """

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
