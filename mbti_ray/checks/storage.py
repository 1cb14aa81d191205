"""Whether runs can be kept where `storage` says, and whether every machine sees the same there.

The driver leaves a note, each machine looks for it and leaves its own, and the driver looks for
those: a folder that has the same name on every machine, but is another disk, is found out.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from mbti_ray.checks.verdict import Verdict, join_names
from mbti_ray.errors import MbtiRayError, one_line
from mbti_ray.storage.remote import Location

_CHECK = "storage"
_DRIVER = "driver"
# A network file system may show a new file of another machine a little later.
_PATIENCE_S = 3.0
_LOOKS_EVERY_S = 0.1


@dataclass(frozen=True)
class StorageReport:
    """What one machine found there.

    Attributes:
        is_there: Whether there is such a folder at all.
        is_shared: Whether it holds the note of the driver.
        problem: Why nothing could be read or written; None if it could.
    """

    is_there: bool
    is_shared: bool
    problem: str | None = None


class StorageMarkers:
    """The notes of one examination, in a folder of their own in the storage folder.

    Made and taken away by the driver: `with Notes(place) as notes`.

    Args:
        storage: Where runs are kept.
        name: Of the folder; None makes one up.
        patience_s: How long a note of another machine may take to appear.

    Attributes:
        problem: Why the driver cannot write there; None if it can.
    """

    def __init__(
        self, storage: Location, name: str | None = None, *, patience_s: float = _PATIENCE_S
    ) -> None:
        self.storage = storage
        self._patience_s = patience_s
        self.name = name or f".doctor-{uuid4().hex[:12]}"
        self.problem: str | None = None
        self._made: list[Path] = []

    def __enter__(self) -> "StorageMarkers":
        if isinstance(self.storage, Path):
            self._made = [p for p in (self.storage, *self.storage.parents) if not p.exists()]
        try:
            self._write(_DRIVER)
        except (OSError, MbtiRayError) as error:
            self.problem = _reason(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, MbtiRayError):
            self._delete()
        # Nothing is left of a folder that was not there before.
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def leave(self, machine: str) -> StorageReport:
        """On a machine: look for the driver's note and leave one. Makes no storage folder."""
        try:
            is_there = not isinstance(self.storage, Path) or self.storage.is_dir()
            is_shared = is_there and not self.missing([_DRIVER])
            if is_shared:
                self._write(machine)
        except (OSError, MbtiRayError) as error:
            return StorageReport(is_there=True, is_shared=False, problem=_reason(error))
        return StorageReport(is_there, is_shared)

    def missing(self, machines: Iterable[str]) -> set[str]:
        """The machines whose notes do not appear here."""
        end = time.monotonic() + self._patience_s
        waiting = {name for name in machines if not self._says(name)}
        while waiting and time.monotonic() < end:
            time.sleep(_LOOKS_EVERY_S)
            waiting = {name for name in waiting if not self._says(name)}
        return waiting

    @property
    def _folder(self) -> Location:
        return self.storage / self.name

    def _says(self, name: str) -> bool:
        note = self._folder / name
        return note.exists() and note.read_text("utf-8") == _text(name)

    def _write(self, note: str) -> None:
        if isinstance(self.storage, Path):
            (self.storage / self.name).mkdir(parents=True, exist_ok=True)
        (self._folder / note).write_text(_text(note), "utf-8")

    def _delete(self) -> None:
        if not isinstance(self._folder, Path):
            self._folder.delete()
            return
        for path in self._folder.glob("*"):
            path.unlink()
        self._folder.rmdir()


def judge_own_storage(notes: StorageMarkers) -> Verdict:
    """Of the machine that the command runs on."""
    if notes.problem is None:
        return Verdict(_CHECK, "ok", f"{notes.storage} can be written and read")
    found = f"{notes.storage} cannot be written to here ({notes.problem})"
    return Verdict(_CHECK, "wrong", found, "set storage=... to a folder or URL that can")


def judge_storage(
    notes: StorageMarkers,
    by_machine: Mapping[str, StorageReport],
    *,
    idle: frozenset[str] = frozenset(),
) -> list[Verdict]:
    """Of the machines that were asked, as they and the driver found it.

    Args:
        idle: Machines that no worker will ever be on.
    """
    own = judge_own_storage(notes)
    if own.state == "wrong" or not by_machine:
        return [own]
    not_back = notes.missing(m for m, seen in by_machine.items() if seen.is_shared)
    faults = {
        machine: fault
        for machine, seen in by_machine.items()
        if (fault := _fault(seen, is_back=machine not in not_back)) is not None
    }
    if not faults:
        count = len(by_machine)
        nodes = f"by {count} nodes" if count > 1 else "by the node"
        return [Verdict(_CHECK, "ok", f"{notes.storage} is written {nodes} and read back here")]
    groups: dict[tuple[str, bool], list[str]] = {}
    for machine, fault in faults.items():
        groups.setdefault((fault, machine in idle), []).append(machine)
    remedy = f"mount the same folder at {notes.storage} on all machines, or set storage=s3://..."
    return [
        Verdict(
            _CHECK,
            "warning" if is_idle else "wrong",
            f"{notes.storage} {fault.format(machines=join_names(machines))}",
            remedy,
        )
        for (fault, is_idle), machines in groups.items()
    ]


def _fault(seen: StorageReport, *, is_back: bool) -> str | None:
    if seen.problem is not None:
        problem = seen.problem.replace("{", "{{").replace("}", "}}")
        return f"cannot be used on {{machines}} ({problem})"
    if not seen.is_there:
        return "is not there on {machines}: what is written on one machine, others do not see"
    if not seen.is_shared:
        return "is another folder on {machines} than here: it does not hold what was written here"
    if not is_back:
        return "does not show here what was written on {machines}"
    return None


def _text(name: str) -> str:
    return f"{name}\n"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
