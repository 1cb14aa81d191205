"""Runs the checks on the nodes of a Ray, by a small task on each, and before every run.

What is checked on a machine, and what the results mean, belongs to `mbti_ray.checks`.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mbti_ray.checks.autoscaler import Autoscaler, judge_nodes
from mbti_ray.checks.clock import judge_clocks, min_skew_s
from mbti_ray.checks.disk import (
    estimate_disk_need,
    judge_ray_disk,
    judge_storage_disk,
    measure_disk,
)
from mbti_ray.checks.gpu import judge_gpus, probe_timeout_s
from mbti_ray.checks.machine import MachineReport, inspect_machine
from mbti_ray.checks.network import judge_gloo
from mbti_ray.checks.ports import judge_ports
from mbti_ray.checks.storage import StorageMarkers, judge_storage
from mbti_ray.checks.token import find_token, judge_token, judge_tokens
from mbti_ray.checks.verdict import Verdict, group_by_value, join_names, merge_verdicts
from mbti_ray.checks.versions import installed_versions, judge_versions
from mbti_ray.config import RunConfig
from mbti_ray.errors import ClusterError, counted, one_line
from mbti_ray.on_ray.cluster import connectivity
from mbti_ray.on_ray.cluster.resources import (
    Nodes,
    Resources,
    judge_resources,
    ray_connection,
    worker_capacity,
)
from mbti_ray.runs.lookup import storage_folder
from mbti_ray.storage.remote import Location

# With the start of a Ray it all ends within half a minute, unless a machine has several GPUs.
_ANSWER_WITHIN_S = 15.0
_HEAD = "node:__internal_head__"
_DRIVER = "the driver"
_LACKING = "No module named"
_SEND = "install constraints.txt there, and submit the code (ray job submit --working-dir .)"
_LOOK = (
    "check that machine, its network and the log of its raylet (a changed token or a full disk is "
    "enough), or stop Ray there"
)


@dataclass
class NodeReports:
    """What the nodes of a cluster, as listed by Ray, reported; or why one did not."""

    nodes: Mapping[str, Any]
    machines: dict[str, MachineReport] = field(default_factory=dict)
    skews: dict[str, float] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, machine: MachineReport, asked: float) -> None:
        self.machines[name] = machine
        self.skews[name] = min_skew_s(machine.clock_s, asked + machine.duration_s, time.time())

    @property
    def resources(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.nodes.values()]

    @property
    def autoscaler(self) -> Autoscaler:
        found = (m.autoscaler for m in self.machines.values() if m.autoscaler)
        return next(found, Autoscaler((), 0))

    @property
    def running(self) -> dict[str, int]:
        return self.autoscaler.count_running([*self.nodes.values()])

    @property
    def addable(self) -> list[dict[str, float]]:
        """The resources of the machines that the autoscaler may add."""
        return self.autoscaler.addable_nodes(self.running)

    def judge_missing(self) -> list[Verdict]:
        alive = [node["NodeManagerAddress"] for node in self.nodes.values()]
        return judge_nodes(self.autoscaler, alive, self.running)


def check_this_machine(config: RunConfig) -> list[Verdict]:
    """Whether a run or study could run on this machine alone; starts no Ray."""
    here = connectivity.local_resources()
    timeout_s = probe_timeout_s(here.get("GPU", 0))
    needs_gpu = config.scaling.use_gpu is True
    with StorageMarkers(storage_folder(config.storage)) as markers:
        folder = connectivity.ray_temp_folder()
        machine = inspect_machine(config.model.needed_encoder, folder, gpu_timeout_s=timeout_s)
        return [
            *judge_versions({"this machine": machine.versions}),
            judge_token(machine.token, joins="RAY_ADDRESS" in os.environ),
            *judge_storage(markers, {}),
            *_disks(config, markers.storage, {"this machine": machine}),
            judge_resources(config, [here], [])[0],
            judge_gpus(machine.gpus, counted=int(here.get("GPU", 0)), is_needed=needs_gpu),
            machine.encoder[0],
            *judge_ports(config.serve, with_dashboard=True),
        ]


def check_cluster(config: RunConfig) -> list[Verdict]:
    """The checks on every node of the cluster; starts a local Ray if there is none."""
    refusal = connectivity.judge_connection(find_token())
    if refusal is not None:
        return [refusal]
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_connection())
        except ClusterError as error:
            return [Verdict("cluster", "wrong", str(error), "start Ray, or correct RAY_ADDRESS")]
        markers = stack.enter_context(StorageMarkers(storage_folder(config.storage)))
        nodes = _live_nodes()
        gpus = max(node["Resources"].get("GPU", 0) for node in nodes.values())
        reports = query_nodes(config, nodes, markers, gpu_within_s=probe_timeout_s(gpus))
        tokens = {name: m.token for name, m in reports.machines.items()}
        return [
            Verdict("cluster", "ok", f"{counted(len(nodes), 'node')}: {join_names(nodes)}"),
            *reports.judge_missing(),
            *_judge_essentials(config, reports, markers),
            *judge_tokens(tokens, is_required=connectivity.requires_token()),
            judge_clocks(reports.skews),
            connectivity.judge_dashboard(),
            *judge_ports(config.serve, with_dashboard=False),
        ]


def check_before_run(
    config: RunConfig, storage: Location, *, warn: Callable[[str], None] = lambda line: None
) -> Nodes:
    """The fast checks before a run or study takes resources; Ray must be connected.

    Returns the nodes to plan with: those of the cluster, and those that the autoscaler may add.
    ClusterError with the first check that failed, and what to change.
    """
    nodes = _live_nodes()
    with StorageMarkers(storage) as markers:
        reports = query_nodes(config, nodes, markers, gpu_within_s=0.0)
        verdicts = _judge_essentials(config, reports, markers)
    for verdict in verdicts:
        if verdict.state == "wrong":
            raise ClusterError(verdict.line())
    for verdict in [*verdicts, *reports.judge_missing()]:
        if verdict.state == "warning":
            warn(verdict.line())
    return [*reports.resources, *reports.addable]


def query_nodes(
    config: RunConfig, nodes: Mapping[str, Any], markers: StorageMarkers, *, gpu_within_s: float
) -> NodeReports:
    """Inspect every node: a single local node in this process, otherwise by tasks."""
    reports, asked = NodeReports(nodes), time.time()
    query: dict[str, Any] = {
        "encoder": config.model.needed_encoder,
        "ray_folder": connectivity.ray_temp_folder(),
        "logs": connectivity.session_logs_folder(),
        "gpu_timeout_s": gpu_within_s,
    }
    if len(nodes) == 1 and connectivity.is_node_here(next(iter(nodes.values()))["NodeID"]):
        (name,) = nodes
        machine = inspect_machine(**query, check_storage=partial(markers.exchange, name))
        reports.add(name, machine, asked)
        return reports
    waiting: dict[Any, str] = {}
    for name, node in nodes.items():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = _inspect_remotely.options(scheduling_strategy=place, name="doctor")
        waiting[task.remote(**query, check_storage=partial(markers.exchange, name))] = name
    within_s = max(_ANSWER_WITHIN_S, gpu_within_s + 3)
    end = time.monotonic() + within_s
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        name = waiting.pop(ready[0])
        try:
            reports.add(name, ray.get(ready[0]), asked)
        except (RayError, ImportError, AttributeError) as error:
            reports.unanswered[name] = _reason(error)
    for ref, name in waiting.items():
        ray.cancel(ref, force=True)
        reports.unanswered[name] = f"no answer within {within_s:g} s"
    return reports


def judge_network(
    config: RunConfig,
    nodes: Mapping[str, Any],
    machines: Mapping[str, MachineReport],
    each: Resources | None,
) -> list[Verdict]:
    """Whether CPU workers on several machines can connect; empty if a run has no such workers.

    `each` is what a worker takes; None if no worker fits.
    """
    if each is None or each.gpus:
        return []
    sizes = {name: worker_capacity(each, [nodes[name]["Resources"]]) for name in machines}
    hosts = {nodes[name]["NodeManagerAddress"] for name, size in sizes.items() if size}
    fits_on_one = max(sizes.values(), default=0) >= config.scaling.most
    if fits_on_one or len(hosts) < 2:
        return []
    return [judge_gloo({name: machines[name].gloo_address for name, size in sizes.items() if size})]


def _judge_essentials(
    config: RunConfig, reports: NodeReports, markers: StorageMarkers
) -> list[Verdict]:
    """The checks without which a run or study would fail, in the order in which it would."""
    nodes, machines = reports.nodes, reports.machines
    capacity, each = judge_resources(config, reports.resources, reports.addable)
    versions = {_DRIVER: installed_versions()} | {n: m.versions for n, m in machines.items()}
    faults = {name: m.storage_fault for name, m in machines.items()}
    # Neither a worker nor the driver runs there.
    idle = frozenset(
        name
        for name, node in nodes.items()
        if not node["Resources"].get("CPU") and not connectivity.is_node_here(node["NodeID"])
    )
    unanswered = [
        Verdict("nodes", "wrong", f"{join_names(n)}: {why}", _SEND if _LACKING in why else _LOOK)
        for why, n in group_by_value(reports.unanswered).items()
    ]
    return [
        *unanswered,
        *judge_versions(versions),
        *judge_storage(markers, faults, idle=idle),
        *_disks(config, markers.storage, machines),
        capacity,
        *_gpus(nodes, machines, is_needed=each is not None and each.gpus > 0),
        *judge_network(config, nodes, machines, each),
        *merge_verdicts({name: m.encoder[0] for name, m in machines.items()}),
    ]


def _disks(
    config: RunConfig, storage: Location, machines: Mapping[str, MachineReport]
) -> list[Verdict]:
    verdicts = merge_verdicts({name: judge_ray_disk(m.disk) for name, m in machines.items()})
    if isinstance(storage, Path):
        weights_bytes = max((m.encoder[1] for m in machines.values()), default=0)
        need = estimate_disk_need(config, weights_bytes)
        verdicts.append(judge_storage_disk(measure_disk(storage), need))
    return verdicts


def _gpus(
    nodes: Mapping[str, Any], machines: Mapping[str, MachineReport], *, is_needed: bool
) -> list[Verdict]:
    with_gpu = {
        name: judge_gpus(
            m.gpus,
            counted=int(nodes[name]["Resources"].get("GPU", 0)),
            is_needed=is_needed and "GPU" in nodes[name]["Resources"],
        )
        for name, m in machines.items()
        if m.gpus.driver is not None or "GPU" in nodes[name]["Resources"]
    }
    return merge_verdicts(with_gpu) if with_gpu else [Verdict("gpu", "ok", "none in this cluster")]


def _live_nodes() -> dict[str, Any]:
    """The live nodes by address; the head first."""
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: (_HEAD not in node["Resources"], node["NodeManagerAddress"]),
    )
    named: dict[str, Any] = {}
    for node in nodes:
        address = node["NodeManagerAddress"]
        # Several nodes on one machine, as in tests.
        named[f"{address}-{node['NodeID'][:6]}" if address in named else address] = node
    return named


_inspect_remotely = ray.remote(num_cpus=0, max_retries=0)(inspect_machine)


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    last = (str(cause).strip() or type(error).__name__).splitlines()[-1]
    return f"cannot be checked ({one_line(last, limit=200)})"
