"""The result of one check: its state, a message, and what to change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

State = Literal["ok", "warning", "wrong"]
_SHOWN_MACHINES = 4

Fact = TypeVar("Fact")


@dataclass(frozen=True)
class Verdict:
    """The result of a check, such as "storage"; a run or study fails if the state is "wrong"."""

    check: str
    state: State
    message: str
    remedy: str = ""

    def line(self) -> str:
        """As in an error: `storage: /mnt/runs does not exist on 10.0.0.2; mount it there`."""
        return f"{self.check}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def merge_verdicts(by_machine: Mapping[str, Verdict]) -> list[Verdict]:
    """One verdict for all machines with the same result, with their names if there are several."""
    if len(by_machine) == 1:
        return list(by_machine.values())
    return [
        replace(verdict, message=f"{verdict.message} ({join_names(machines)})")
        for verdict, machines in group_by_value(by_machine).items()
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
