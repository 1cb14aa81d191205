"""A finding of a diagnosis: what is wrong, the figures that show it, and settings to try.

Knows dotted addresses as text; not what they mean.
"""

import json
import shlex
from dataclasses import dataclass
from typing import Any

from mbti_ray.typology import DIMENSIONS

Tries = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One fault, with what shows it.

    Attributes:
        name: What it is called, such as "overfitting".
        dimension: Key of the dimension that it is about (ei, sn, tf, jp), or None for the whole.
        evidence: The figures that show it and their epoch, in one sentence without a full stop.
        tries: Value to try by dotted config address; all valid and other than the present ones.
            Empty where everything that the seed knows is set already.
    """

    name: str
    dimension: str | None
    evidence: str
    tries: Tries

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dimension": self.dimension,
            "evidence": self.evidence,
            "tries": dict(self.tries),
            "line": self.text(),
        }

    def command(self) -> str:
        """The tries as `key=value` arguments, quoted for a shell."""
        return " ".join(shlex.quote(f"{a}={_said(value)}") for a, value in self.tries.items())

    def text(self) -> str:
        """One line: `overfitting: ...; try model.dropout=0.3 optim.weight_decay=0.05`."""
        about = [f"({d.name})" for d in DIMENSIONS if d.key == self.dimension]
        line = f"{' '.join([self.name, *about])}: {self.evidence}"
        return f"{line}; try {self.command()}" if self.tries else line


def rounded(value: float) -> float:
    """Three digits: a value to try is no measurement."""
    return float(f"{value:.3g}")


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
