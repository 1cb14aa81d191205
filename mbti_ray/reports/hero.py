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
            ("model", f"{wording.source_name(model.encoder)}, {model.pooling} pooling"),
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
    own = card["overall"]["accuracy"]
    tiles = [Tile(f"this model ({split})", wording.number(own["value"]), _below(own))]
    for name, title in BASELINE_NAMES.items():
        if rates := (card.get("baselines") or {}).get(name):
            mean = rates["accuracy"]
            tiles.append(Tile(title, wording.number(mean["value"]), _below(mean)))
    return tiles


def _below(interval: dict[str, float | None]) -> str:
    bounds = wording.format_bounds(interval)
    return f"{bounds}, accuracy a letter" if bounds else "accuracy a letter"
