"""Whether the storage folder can be written, and whether every machine sees the same folder.

The driver writes a marker file, each machine looks for it and writes its own, and the driver looks
for those. This detects folders that have the same path on every machine, but are different disks.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from mbti_ray.checks.verdict import Verdict, group_by_value, join_names
from mbti_ray.errors import MbtiRayError, one_line
from mbti_ray.storage.remote import Location

_CHECK = "storage"
_DRIVER = "driver"
# On a network file system, a new file may appear later on other machines.
_PATIENCE_S, _POLL_S = 3.0, 0.1


@dataclass
class StorageMarkers:
    """The marker files of one check, in a temporary subfolder (`name`) of the storage folder.

    The driver creates and deletes it: `with StorageMarkers(storage) as markers`; `problem` is then
    why it cannot write there. A marker of another machine may take `patience_s` to appear.
    """

    storage: Location
    name: str = field(default_factory=lambda: f".doctor-{uuid4().hex[:12]}")
    patience_s: float = _PATIENCE_S
    problem: str | None = None
    _created: list[Path] = field(default_factory=list)

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

    def exchange(self, machine: str) -> str | None:
        """On a machine: look for the driver's marker and write one. Never creates the folder.

        Returns what is wrong there, with {} in place of the names of machines; None if nothing.
        """
        try:
            if isinstance(self.storage, Path) and not self.storage.is_dir():
                return "does not exist on {}: other machines would not see its files"
            if self.find_missing([_DRIVER]):
                return "is another folder on {} than here: files written here are missing there"
            self._write(machine)
        except (OSError, MbtiRayError) as error:
            return f"cannot be used on {{}} ({_reason(error)})"
        return None

    def find_missing(self, machines: Iterable[str]) -> set[str]:
        """The machines whose markers do not appear here."""
        end = time.monotonic() + self.patience_s
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


def judge_storage(
    markers: StorageMarkers, faults: Mapping[str, str | None], *, idle: frozenset[str] = frozenset()
) -> list[Verdict]:
    """The storage folder here and on other machines, by what `exchange` returned there.

    On `idle` machines no worker will run.
    """
    if markers.problem is not None:
        message = f"{markers.storage} cannot be written to here ({markers.problem})"
        remedy = "set storage=... to a folder or URL that can"
        return [Verdict(_CHECK, "wrong", message, remedy)]
    if not faults:
        return [Verdict(_CHECK, "ok", f"{markers.storage} can be written and read")]
    unseen = markers.find_missing(machine for machine, fault in faults.items() if fault is None)
    found = {m: (fault, m in idle) for m, fault in faults.items() if fault is not None}
    found |= {m: ("does not show files here that were written on {}", m in idle) for m in unseen}
    remedy = f"mount the same folder at {markers.storage} on all machines, or set storage=s3://..."
    wrong = []
    for (fault, is_idle), machines in group_by_value(found).items():
        message = f"{markers.storage} {fault.replace('{}', join_names(machines), 1)}"
        wrong.append(Verdict(_CHECK, "warning" if is_idle else "wrong", message, remedy))
    nodes = f"by {len(faults)} nodes" if len(faults) > 1 else "by the node"
    return wrong or [Verdict(_CHECK, "ok", f"{markers.storage} is writable {nodes} and read back")]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)
