"""Whether the storage folder can be written, and whether every machine sees the same folder.

The driver writes a marker file, each machine looks for it and writes its own, and the driver looks
for those. This detects folders that have the same path on every machine, but are different disks.
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
# On a network file system, a new file may appear later on other machines.
_PATIENCE_S = 3.0
_POLL_S = 0.1


@dataclass(frozen=True)
class StorageReport:
    """The storage folder as one machine sees it.

    Attributes:
        exists: Whether the folder exists.
        is_shared: Whether it contains the marker of the driver.
        problem: Why it could not be read or written; None if it could.
    """

    exists: bool
    is_shared: bool
    problem: str | None = None


class StorageMarkers:
    """The marker files of one check, in a temporary subfolder of the storage folder.

    The driver creates and deletes it: `with StorageMarkers(storage) as markers`.

    Args:
        storage: The storage folder.
        name: Of the subfolder; None makes a new one.
        patience_s: How long a marker of another machine may take to appear.

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
        self._created: list[Path] = []

    def __enter__(self) -> "StorageMarkers":
        if isinstance(self.storage, Path):
            self._created = [p for p in (self.storage, *self.storage.parents) if not p.exists()]
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
        # A folder that did not exist before is deleted.
        for folder in self._created:
            with suppress(OSError):
                folder.rmdir()

    def exchange(self, machine: str) -> StorageReport:
        """On a machine: look for the driver's marker and write one. Never creates the folder."""
        try:
            exists = not isinstance(self.storage, Path) or self.storage.is_dir()
            is_shared = exists and not self.find_missing([_DRIVER])
            if is_shared:
                self._write(machine)
        except (OSError, MbtiRayError) as error:
            return StorageReport(exists=True, is_shared=False, problem=_reason(error))
        return StorageReport(exists, is_shared)

    def find_missing(self, machines: Iterable[str]) -> set[str]:
        """The machines whose markers do not appear here."""
        end = time.monotonic() + self._patience_s
        waiting = {name for name in machines if not self._has_marker(name)}
        while waiting and time.monotonic() < end:
            time.sleep(_POLL_S)
            waiting = {name for name in waiting if not self._has_marker(name)}
        return waiting

    @property
    def _folder(self) -> Location:
        return self.storage / self.name

    def _has_marker(self, name: str) -> bool:
        marker = self._folder / name
        return marker.exists() and marker.read_text("utf-8") == _text(name)

    def _write(self, name: str) -> None:
        if isinstance(self.storage, Path):
            (self.storage / self.name).mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_text(_text(name), "utf-8")

    def _delete(self) -> None:
        if not isinstance(self._folder, Path):
            self._folder.delete()
            return
        for path in self._folder.glob("*"):
            path.unlink()
        self._folder.rmdir()


def judge_own_storage(markers: StorageMarkers) -> Verdict:
    """The storage folder on the machine of the driver."""
    if markers.problem is None:
        return Verdict(_CHECK, "ok", f"{markers.storage} can be written and read")
    message = f"{markers.storage} cannot be written to here ({markers.problem})"
    return Verdict(_CHECK, "wrong", message, "set storage=... to a folder or URL that can")


def judge_storage(
    markers: StorageMarkers,
    by_machine: Mapping[str, StorageReport],
    *,
    idle: frozenset[str] = frozenset(),
) -> list[Verdict]:
    """The storage folder on all machines.

    Args:
        idle: Machines on which no worker will run.
    """
    own = judge_own_storage(markers)
    if own.state == "wrong" or not by_machine:
        return [own]
    unseen = markers.find_missing(m for m, report in by_machine.items() if report.is_shared)
    faults = {
        machine: fault
        for machine, report in by_machine.items()
        if (fault := _fault(report, is_seen=machine not in unseen)) is not None
    }
    if not faults:
        count = len(by_machine)
        nodes = f"by {count} nodes" if count > 1 else "by the node"
        return [Verdict(_CHECK, "ok", f"{markers.storage} is writable {nodes} and read back here")]
    groups: dict[tuple[str, bool], list[str]] = {}
    for machine, fault in faults.items():
        groups.setdefault((fault, machine in idle), []).append(machine)
    remedy = f"mount the same folder at {markers.storage} on all machines, or set storage=s3://..."
    return [
        Verdict(
            _CHECK,
            "warning" if is_idle else "wrong",
            f"{markers.storage} {fault.format(machines=join_names(machines))}",
            remedy,
        )
        for (fault, is_idle), machines in groups.items()
    ]


def _fault(report: StorageReport, *, is_seen: bool) -> str | None:
    if report.problem is not None:
        problem = report.problem.replace("{", "{{").replace("}", "}}")
        return f"cannot be used on {{machines}} ({problem})"
    if not report.exists:
        return "does not exist on {machines}: other machines would not see its files"
    if not report.is_shared:
        return "is another folder on {machines} than here: files written here are missing there"
    if not is_seen:
        return "does not show files here that were written on {machines}"
    return None


def _text(name: str) -> str:
    return f"{name}\n"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
