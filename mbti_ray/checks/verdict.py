"""The result of one check: its state, a message, and what to change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

State = Literal["ok", "warning", "wrong"]
_SHOWN_MACHINES = 4

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        check: Its name, such as "storage".
        state: A run or study fails if it is "wrong".
        found: One sentence without a full stop.
        remedy: What to change; empty if nothing.
    """

    check: str
    state: State
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        names = {"check": self.check, "state": self.state}
        return names | {"found": self.message, "remedy": self.remedy}

    def line(self) -> str:
        """As in an error: `storage: /mnt/runs does not exist on 10.0.0.2; mount it there`."""
        return f"{self.check}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def first_wrong(verdicts: Iterable[Verdict]) -> Verdict | None:
    return next((v for v in verdicts if v.state == "wrong"), None)


def merge_verdicts(by_machine: Mapping[str, Verdict]) -> list[Verdict]:
    """One verdict for all machines with the same result, with their names."""
    groups: dict[Verdict, list[str]] = {}
    for machine, verdict in by_machine.items():
        groups.setdefault(verdict, []).append(machine)
    if len(groups) == 1 and len(by_machine) == 1:
        return list(groups)
    return [
        Verdict(v.check, v.state, f"{v.message} ({join_names(machines)})", v.remedy)
        for v, machines in groups.items()
    ]


def join_names(machines: Iterable[str]) -> str:
    """The names of the first machines, and how many more there are."""
    names = sorted(machines)
    more = len(names) - _SHOWN_MACHINES
    return ", ".join(names[:_SHOWN_MACHINES]) + (f" and {more} more" if more > 0 else "")


def group_by_value(by_machine: Mapping[str, Fact]) -> dict[Fact, list[str]]:
    """The machines with each value; the most frequent value first."""
    groups: dict[Fact, list[str]] = {}
    for machine, value in by_machine.items():
        groups.setdefault(value, []).append(machine)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))
