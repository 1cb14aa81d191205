"""A finding of a diagnosis: what is wrong, the evidence, and settings to try by dotted address."""

import json
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from mbti_ray.typology import DIMENSIONS

Tries = dict[str, Any]
# A finding as scores.json holds it: its fields, and as `line` its text.
FindingRecord = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One problem, with its evidence.

    Attributes:
        dimension: Key of the dimension that it is about (ei, sn, tf, jp), or None for all.
        evidence: The metrics that show it and their epoch, in one sentence without a full stop.
        tries: Value to try by dotted config address; all are valid and differ from the current
            ones. Empty where everything that the seed suggests is set already.
    """

    name: str
    dimension: str | None
    evidence: str
    tries: Tries

    def as_dict(self) -> FindingRecord:
        return asdict(self) | {"line": self.text()}

    def command(self) -> str:
        """The tries as `key=value` arguments, quoted for a shell."""
        return " ".join(shlex.quote(f"{a}={format_value(v)}") for a, v in self.tries.items())

    def text(self) -> str:
        """One line: `overfitting: ...; try model.dropout=0.3 optim.weight_decay=0.05`."""
        about = [f"({d.name})" for d in DIMENSIONS if d.key == self.dimension]
        line = f"{' '.join([self.name, *about])}: {self.evidence}"
        return f"{line}; try {self.command()}" if self.tries else line


def round_to_try(value: float) -> float:
    """Rounded to three digits: a value to try is not a measurement."""
    return float(f"{value:.3g}")


def format_value(value: object) -> str:
    """A config value as it is given on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
