"""Whether the storage folder can be written, and whether every machine sees the same folder.

The driver writes a marker file, each machine looks for it and writes its own, and the driver looks
for those. This detects folders that have the same path on every machine, but are different disks.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from mbti_ray.checks.verdict import Verdict, group_by_value, join_names
from mbti_ray.errors import MbtiRayError, one_line
from mbti_ray.storage.remote import Location

_CHECK = "storage"
_DRIVER = "driver"
# On a network file system, a new file may appear later on other machines.
_PATIENCE_S, _POLL_S = 3.0, 0.1


@dataclass(frozen=True)
class StorageReport:
    """The storage folder as one machine sees it; `is_shared`: it has the marker of the driver."""

    exists: bool
    is_shared: bool
    problem: str | None = None


class StorageMarkers:
    """The marker files of one check, in a temporary subfolder of the storage folder.

    The driver creates and deletes it: `with StorageMarkers(storage) as markers`; `problem` is then
    why it cannot write there.

    Args:
        name: Of the subfolder; None makes a new one.
        patience_s: How long a marker of another machine may take to appear.
    """

    def __init__(
        self, storage: Location, name: str | None = None, *, patience_s: float = _PATIENCE_S
    ) -> None:
        self.storage = storage
        self.name = name or f".doctor-{uuid4().hex[:12]}"
        self.problem: str | None = None
        self._patience_s = patience_s
        self._created: list[Path] = []

    def __enter__(self) -> "StorageMarkers":
        if isinstance(self.storage, Path):
            self._created = [p for p in (self.storage, *self.storage.parents) if not p.exists()]
        try:
            self._write(_DRIVER)
        except (OSError, MbtiRayError) as error:
            self.problem = _reason(error)
        return self

    def __exit__(self, *error: object) -> None:
        folder = self.storage / self.name
        with suppress(OSError, MbtiRayError):
            shutil.rmtree(folder) if isinstance(folder, Path) else folder.delete()
        # A folder that did not exist before is deleted, too, unless it is in use by now.
        with suppress(OSError):
            for new in self._created:
                new.rmdir()

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
        missing = set(machines)
        while missing := {name for name in missing if not self._has_marker(name)}:
            if time.monotonic() > end:
                break
            time.sleep(_POLL_S)
        return missing

    def _has_marker(self, name: str) -> bool:
        marker = self.storage / self.name / name
        return marker.exists() and marker.read_text("utf-8") == name

    def _write(self, name: str) -> None:
        if isinstance(self.storage, Path):
            (self.storage / self.name).mkdir(parents=True, exist_ok=True)
        (self.storage / self.name / name).write_text(name, "utf-8")


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
    """The storage folder on all machines; on the `idle` ones no worker will run."""
    own = judge_own_storage(markers)
    if own.state == "wrong" or not by_machine:
        return [own]
    unseen = markers.find_missing(m for m, report in by_machine.items() if report.is_shared)
    faults = {
        machine: (fault, machine in idle)
        for machine, report in by_machine.items()
        if (fault := _fault(report, is_seen=machine not in unseen))
    }
    nodes = f"by {len(by_machine)} nodes" if len(by_machine) > 1 else "by the node"
    remedy = f"mount the same folder at {markers.storage} on all machines, or set storage=s3://..."
    wrong = []
    for (fault, is_idle), machines in group_by_value(faults).items():
        message = f"{markers.storage} {fault.replace('{}', join_names(machines), 1)}"
        wrong.append(Verdict(_CHECK, "warning" if is_idle else "wrong", message, remedy))
    return wrong or [Verdict(_CHECK, "ok", f"{markers.storage} is writable {nodes} and read back")]


def _fault(report: StorageReport, *, is_seen: bool) -> str | None:
    """What is wrong with it, with {} for the names of the machines."""
    if report.problem is not None:
        return f"cannot be used on {{}} ({report.problem})"
    if not report.exists:
        return "does not exist on {}: other machines would not see its files"
    if not report.is_shared:
        return "is another folder on {} than here: files written here are missing there"
    return None if is_seen else "does not show files here that were written on {}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
