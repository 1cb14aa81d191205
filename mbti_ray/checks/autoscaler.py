"""The autoscaler of a cluster: machines that it may add, and those that failed to join.

Read on the head, from the config and the log of the autoscaler: if `ray start` fails on a worker,
only this log shows it, while `ray up` reports success.
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
# The only line of Ray about a mismatch with an address in it.
_PROCESS = re.compile(r"This process on node (\S+) was started with")
_MISMATCH = "its version of Ray or Python differs from the head's"
_LOOK = f"read {_LOG} on the head (ray monitor CLUSTER.yaml)"
_COPY = (
    "copy ~/.ray/auth_token to it by file_mounts, with RAY_AUTH_MODE=token in its environment, and "
    "run `ray up` again"
)
# Text in the log, what it means, and what to do.
_REASONS = (
    ("InvalidAuthToken", "its token is missing or differs from the head's", _COPY),
    ("no authentication token was found", "it has no token", _COPY),
    ("No space left on device", "its disk is full", _LOOK),
    ("command not found", "a setup command is not installed there", _LOOK),
)
_REMEDIES = {reason: remedy for _, reason, remedy in _REASONS} | {
    _MISMATCH: "install the head's versions there (pip install -c constraints.txt), and run "
    "`ray up` again"
}


@dataclass(frozen=True)
class NodeType:
    """A kind of machine that the autoscaler may add; no resources if the config names none."""

    name: str
    resources: Mapping[str, float]
    min_workers: int
    max_workers: int


@dataclass(frozen=True)
class Autoscaler:
    """The autoscaler of a cluster.

    Attributes:
        types: The kinds of workers.
        max_workers: Of all types together.
        addresses: Of the workers, if the config names machines.
        failures: Why `ray start` failed, by address, if it still does.
    """

    types: tuple[NodeType, ...]
    max_workers: int
    addresses: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    def count_running(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """How many workers of each type are among the nodes, as listed by Ray."""
        workers = [node for node in nodes if _HEAD not in node["Resources"]]
        if self.addresses:
            # Named machines are all of one type, and not all have its label.
            return {kind.name: len(workers) for kind in self.types}
        return Counter(node.get("Labels", {}).get(_LABEL, "") for node in workers)

    def addable_nodes(self, running: Mapping[str, int]) -> list[dict[str, float]]:
        """The resources of each machine that may still be added to the running ones."""
        capacity = self.max_workers - sum(running.values())
        added: list[dict[str, float]] = []
        # Most GPUs first: if not all fit under the limit, these matter.
        for kind in sorted(self.types, key=lambda t: -t.resources.get("GPU", 0)):
            left = min(kind.max_workers - running.get(kind.name, 0), capacity)
            count = left if kind.resources else 0
            added += [dict(kind.resources)] * max(count, 0)
            capacity -= max(count, 0)
        return added


def find_autoscaler(logs: Path) -> Autoscaler | None:
    """The autoscaler that writes its log to a folder of this machine, if there is one."""
    path = next(_configs(logs), None)
    if path is None:
        return None
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return parse_autoscaler(tree, _end_of(logs / _LOG))


def parse_autoscaler(tree: Mapping[str, Any], log: str = "") -> Autoscaler:
    """The autoscaler from the cluster config that `ray up` copies to the head, and its log."""
    head = tree.get("head_node_type")
    addresses = tuple(tree.get("provider", {}).get("worker_ips", ()))
    most = int(tree.get("max_workers", 0))
    types = []
    for name, kind in tree.get("available_node_types", {}).items():
        # With named machines, the head is of the same type as the workers.
        if name == head and not addresses:
            continue
        resources = {k: float(v) for k, v in kind.get("resources", {}).items()}
        least = int(kind.get("min_workers", 0))
        types.append(NodeType(name, resources, least, int(kind.get("max_workers", most))))
    return Autoscaler(tuple(types), most, addresses, parse_join_failures(log))


def parse_join_failures(log: str) -> dict[str, str]:
    """Why machines could not join, by address, from the log; the newest attempt counts.

    Machines start in parallel, and the output of their commands is logged without an address: a
    reason counts for every machine that is starting, unless it names one.
    """
    failures: dict[str, str] = {}
    mismatched: set[str] = set()
    # The last reason since each machine's last step; None is for machines without a step.
    reasons: dict[str | None, str | None] = {None: None}
    for line in _COLOURS.sub("", log).splitlines():
        mismatched.update(_PROCESS.findall(line))
        for text, reason, _ in _REASONS:
            if text in line:
                reasons = dict.fromkeys(reasons, reason)
        step = _STEP.search(line)
        if step is None:
            continue
        address, outcome = step.groups()
        if outcome.endswith("failed"):
            known = _MISMATCH if address in mismatched else reasons.get(address, reasons[None])
            failures[address] = known or f"{outcome[0].lower()}{outcome[1:]}"
        elif outcome == "Ray start commands succeeded":
            failures.pop(address, None)
        mismatched.discard(address)
        reasons |= {address: None, None: None}
    return failures


def judge_nodes(
    autoscaler: Autoscaler, alive: Sequence[str], running: Mapping[str, int]
) -> list[Verdict]:
    """A verdict for each machine that failed to join or is missing.

    Args:
        alive: Addresses of the live nodes.
        running: How many workers of each type are running.
    """
    verdicts = [
        Verdict(
            _CHECK, "wrong", f"{address} could not join: {reason}", _REMEDIES.get(reason, _LOOK)
        )
        for address, reason in sorted(autoscaler.failures.items())
        if address not in alive
    ]
    named = {address for address in autoscaler.failures if address not in alive}
    for kind in autoscaler.types:
        missing = kind.min_workers - running.get(kind.name, 0) - len(named)
        if missing > 0:
            absent = [a for a in autoscaler.addresses if a not in alive and a not in named]
            where = f" ({', '.join(absent[:4])})" if absent else ""
            message = (
                f"{missing} of {kind.min_workers} machines of type {kind.name} are missing{where}"
            )
            verdicts.append(Verdict(_CHECK, "warning", message, f"wait, or {_LOOK}"))
    return verdicts


def _configs(logs: Path) -> Iterator[Path]:
    """The config of the running autoscaler that writes its log there."""
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
