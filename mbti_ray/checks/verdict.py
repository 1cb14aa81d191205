"""A line of the doctor: what was looked at, how it stands, what was found, what to change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

State = Literal["ok", "warning", "wrong"]
_ORDER: tuple[State, ...] = ("ok", "warning", "wrong")
_SHOWN_MACHINES = 4

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        check: Its name, such as "storage".
        state: Wrong is what a run or study would fail of.
        found: One sentence without a full stop.
        remedy: What to change; empty where nothing is.
    """

    check: str
    state: State
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return {
            "check": self.check,
            "state": self.state,
            "found": self.found,
            "remedy": self.remedy,
        }

    def line(self) -> str:
        """As an error says it: `storage: /mnt/runs is not there on 10.0.0.2; mount it there`."""
        return f"{self.check}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


def worst(verdicts: Iterable[Verdict]) -> State:
    """The state of the whole."""
    return max((v.state for v in verdicts), key=_ORDER.index, default="ok")


def first_wrong(verdicts: Iterable[Verdict]) -> Verdict | None:
    return next((v for v in verdicts if v.state == "wrong"), None)


def merge_verdicts(by_machine: Mapping[str, Verdict]) -> list[Verdict]:
    """One line for all machines where a check found the same, which names them."""
    groups: dict[Verdict, list[str]] = {}
    for machine, verdict in by_machine.items():
        groups.setdefault(verdict, []).append(machine)
    if len(groups) == 1 and len(by_machine) == 1:
        return list(groups)
    return [
        Verdict(v.check, v.state, f"{v.found} ({join_names(machines)})", v.remedy)
        for v, machines in groups.items()
    ]


def join_names(machines: Iterable[str]) -> str:
    """The first of some machines by name, and how many more there are."""
    names = sorted(machines)
    more = len(names) - _SHOWN_MACHINES
    return ", ".join(names[:_SHOWN_MACHINES]) + (f" and {more} more" if more > 0 else "")


def group_by_value(by_machine: Mapping[str, Fact]) -> dict[Fact, list[str]]:
    """The machines of each value, that of the most machines first."""
    groups: dict[Fact, list[str]] = {}
    for machine, value in by_machine.items():
        groups.setdefault(value, []).append(machine)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))
