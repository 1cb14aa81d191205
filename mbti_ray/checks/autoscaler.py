"""What `ray up` was told and what came of it: machines that may be added, and those not let in.

Read on the head, from the file that the autoscaler works by and from its log: a worker whose
`ray start` fails leaves a trace only there, while `ray up` says that all is well.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mbti_ray.checks.verdict import Verdict

_CHECK = "nodes"
_OPTION = "--autoscaling-config="
_LOG = "monitor.out"
_HEAD = "node:__internal_head__"
_LABEL = "ray.io/node-group"
_READ_BYTES = 4 << 20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"NodeUpdater: (\S+): (.+?) \[LogTimer")
# Ray says whose version is another, and nothing else with an address.
_PROCESS = re.compile(r"This process on node (\S+) was started with")
_MISMATCH = "it has another version of Ray or Python than the head"
_LOOK = f"look into {_LOG} on the head (ray monitor CLUSTER.yaml)"
# What stands in the log, what it means, and what to do.
_REASONS = (
    ("InvalidAuthToken", "its token is missing or another than the head's"),
    ("no authentication token was found", "it has no token"),
    ("No space left on device", "its disk is full"),
    ("command not found", "a command of its set-up is not installed there"),
)
_REMEDIES = {
    _REASONS[0][1]: "carry ~/.ray/auth_token to it by file_mounts, with RAY_AUTH_MODE=token in its "
    "environment, and run `ray up` again",
    _MISMATCH: "install the head's versions there (pip install -c constraints.txt), and run "
    "`ray up` again",
}
_REMEDIES[_REASONS[1][1]] = _REMEDIES[_REASONS[0][1]]


@dataclass(frozen=True)
class NodeType:
    """A kind of machine that may be added.

    Attributes:
        resources: Of each; empty where the file does not say.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int


@dataclass(frozen=True)
class Autoscaler:
    """What the autoscaler of a cluster works by.

    Attributes:
        types: Of workers.
        most: Workers of all types together, at the most.
        addresses: Of the workers, where the file names machines.
        failures: Why `ray start` failed, by address, as far as it still does.
    """

    types: tuple[NodeType, ...]
    most: int
    addresses: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    def running(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """How many workers of each type are among the nodes, as Ray lists them."""
        workers = [node for node in nodes if _HEAD not in node["Resources"]]
        if self.addresses:
            # Machines by name are all of one type, and not all of them say so.
            return {kind.name: len(workers) for kind in self.types}
        return Counter(node.get("Labels", {}).get(_LABEL, "") for node in workers)

    def may_add(self, running: Mapping[str, int]) -> list[dict[str, float]]:
        """Resources of each machine that may still be added, given how many of each type run."""
        room = self.most - sum(running.values())
        added: list[dict[str, float]] = []
        # Machines with the most GPUs first: where not all fit, those are what is waited for.
        for kind in sorted(self.types, key=lambda t: -t.resources.get("GPU", 0)):
            count = min(kind.most - running.get(kind.name, 0), room) if kind.resources else 0
            added += [dict(kind.resources)] * max(count, 0)
            room -= max(count, 0)
        return added


def find_autoscaler(logs: Path) -> Autoscaler | None:
    """The autoscaler that logs into a folder of this machine, if one does."""
    path = next(_configs(logs), None)
    if path is None:
        return None
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return parse_autoscaler(tree, _end_of(logs / _LOG))


def parse_autoscaler(tree: Mapping[str, Any], log: str = "") -> Autoscaler:
    """From a cluster file as `ray up` leaves it on the head, and the log."""
    head = tree.get("head_node_type")
    addresses = tuple(tree.get("provider", {}).get("worker_ips", ()))
    most = int(tree.get("max_workers", 0))
    types = []
    for name, kind in tree.get("available_node_types", {}).items():
        # With machines by name, the head is of the same type as the workers.
        if name == head and not addresses:
            continue
        resources = {k: float(v) for k, v in kind.get("resources", {}).items()}
        least = int(kind.get("min_workers", 0))
        types.append(NodeType(name, resources, least, int(kind.get("max_workers", most))))
    return Autoscaler(tuple(types), most, addresses, parse_join_failures(log))


def parse_join_failures(log: str) -> dict[str, str]:
    """Why machines could not be added, by address, as the log tells it; the newest word counts.

    Machines are started side by side, and what their commands print stands in the log without an
    address: a reason counts for every machine that is being started, unless it names one.
    """
    found: dict[str, str] = {}
    mismatched: set[str] = set()
    # The last reason since each machine's last step; under None, of one that had no step yet.
    heard: dict[str | None, str | None] = {None: None}
    for line in _COLOURS.sub("", log).splitlines():
        mismatched.update(_PROCESS.findall(line))
        for mark, reason in _REASONS:
            if mark in line:
                heard = dict.fromkeys(heard, reason)
        step = _STEP.search(line)
        if step is None:
            continue
        address, outcome = step.groups()
        if outcome.endswith("failed"):
            told = _MISMATCH if address in mismatched else heard.get(address, heard[None])
            found[address] = told or f"{outcome[0].lower()}{outcome[1:]}"
        elif outcome == "Ray start commands succeeded":
            found.pop(address, None)
        mismatched.discard(address)
        heard |= {address: None, None: None}
    return found


def judge_nodes(
    autoscaler: Autoscaler, alive: Sequence[str], running: Mapping[str, int]
) -> list[Verdict]:
    """A line for each machine that was refused or is missing.

    Args:
        alive: Addresses of the nodes that are there.
        running: How many workers of each type are there.
    """
    verdicts = [
        Verdict(_CHECK, "wrong", f"{address} could not join: {reason}", _remedy(reason))
        for address, reason in sorted(autoscaler.failures.items())
        if address not in alive
    ]
    named = {address for address in autoscaler.failures if address not in alive}
    for kind in autoscaler.types:
        missing = kind.least - running.get(kind.name, 0) - len(named)
        if missing > 0:
            absent = [a for a in autoscaler.addresses if a not in alive and a not in named]
            where = f" ({', '.join(absent[:4])})" if absent else ""
            found = f"{missing} of {kind.least} machines of type {kind.name} are not there{where}"
            verdicts.append(Verdict(_CHECK, "warning", found, f"wait, or {_LOOK}"))
    return verdicts


def _remedy(reason: str) -> str:
    return _REMEDIES.get(reason, _LOOK)


def _configs(logs: Path) -> Iterator[Path]:
    """The file that the autoscaler which logs there was started with."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if any(a.endswith("monitor.py") for a in arguments) and f"--logs-dir={logs}" in arguments:
            for argument in arguments:
                if argument.startswith(_OPTION) and argument != _OPTION:
                    yield Path(argument.removeprefix(_OPTION)).expanduser()


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _READ_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
