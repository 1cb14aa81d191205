"""The autoscaler of a cluster: machines that it may add, and those that failed to join.

Read on the head, from the config and the log of the autoscaler: if `ray start` fails on a worker,
only this log shows it, while `ray up` reports success.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mbti_ray.checks.verdict import Verdict, join_names

_CHECK = "nodes"
_SCRIPT, _OPTION = "monitor.py", "--autoscaling-config="
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
    """The autoscaler of a cluster: its types of workers, and how many of all types it may run.

    `addresses` are of the workers, if the config names machines; `failures` say why `ray start`
    failed, by address, if it still does.
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
        capacity = max(self.max_workers - sum(running.values()), 0)
        # Most GPUs first: if not all fit under the limit, these matter.
        kinds = sorted(self.types, key=lambda kind: -kind.resources.get("GPU", 0))
        added = [
            dict(kind.resources)
            for kind in kinds
            if kind.resources
            for _ in range(kind.max_workers - running.get(kind.name, 0))
        ]
        return added[:capacity]


def find_autoscaler(logs: Path) -> Autoscaler | None:
    """The autoscaler that writes its log to a folder of this machine, if there is one."""
    with suppress(OSError, yaml.YAMLError):
        if path := _config_of(logs):
            log = (logs / _LOG).read_bytes()[-_READ_BYTES:] if (logs / _LOG).exists() else b""
            tree = yaml.safe_load(path.read_text("utf-8"))
            return parse_autoscaler(tree, log.decode("utf-8", "replace"))
    return None


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
    """A verdict for each machine that failed to join or is not alive, though it should run."""
    failed = {a: why for a, why in sorted(autoscaler.failures.items()) if a not in alive}
    verdicts = [
        Verdict(_CHECK, "wrong", f"{address} could not join: {why}", _REMEDIES.get(why, _LOOK))
        for address, why in failed.items()
    ]
    for kind in autoscaler.types:
        missing = kind.min_workers - running.get(kind.name, 0) - len(failed)
        if missing > 0:
            absent = [a for a in autoscaler.addresses if a not in alive and a not in failed]
            where = f" ({join_names(absent)})" if absent else ""
            message = f"{missing} of {kind.min_workers} machines of type {kind.name} are missing"
            verdicts.append(Verdict(_CHECK, "warning", message + where, f"wait, or {_LOOK}"))
    return verdicts


def _config_of(logs: Path) -> Path | None:
    """The config of the running autoscaler that writes its log there."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = process.read_bytes().decode("utf-8", "replace").split("\0")
            if f"--logs-dir={logs}" in arguments and any(a.endswith(_SCRIPT) for a in arguments):
                found = [a.removeprefix(_OPTION) for a in arguments if a.startswith(_OPTION)]
                return Path(found[0]).expanduser() if any(found) else None
    return None
