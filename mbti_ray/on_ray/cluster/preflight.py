"""The checks on the machines of a Ray: a small task on every node, and the sums of what will run.

What a machine is asked and what the answers mean is in `mbti_ray.checks`; here is who is asked.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mbti_ray.checks.autoscaler import Autoscaler, judge_nodes
from mbti_ray.checks.clock import judge_clocks, least_skew_s
from mbti_ray.checks.disk import (
    estimate_disk_need,
    judge_ray_disk,
    judge_storage_disk,
    measure_disk,
)
from mbti_ray.checks.gpu import judge_gpus
from mbti_ray.checks.machine import MachineQuery, MachineReport, inspect_machine
from mbti_ray.checks.network import judge_gloo
from mbti_ray.checks.ports import judge_ports
from mbti_ray.checks.storage import StorageMarkers, StorageReport, judge_own_storage, judge_storage
from mbti_ray.checks.token import find_token, judge_token, judge_tokens
from mbti_ray.checks.verdict import Verdict, first_wrong, join_names, merge_verdicts
from mbti_ray.checks.versions import installed_versions, judge_versions
from mbti_ray.config import RunConfig, StudyConfig
from mbti_ray.errors import ClusterError, one_line
from mbti_ray.on_ray.cluster import connectivity
from mbti_ray.on_ray.cluster.resources import (
    Nodes,
    Resources,
    ray_connection,
    run_resources,
    trial_resources,
    trials_at_once,
    worker_capacity,
)
from mbti_ray.runs.lookup import storage_folder
from mbti_ray.storage.remote import Location

# The whole has to end within half a minute, the start of a Ray included.
_ANSWER_WITHIN_S = 15.0
_GPU_WITHIN_S = 12.0
_HEAD = "node:__internal_head__"
_DRIVER = "the driver"
_LACKING = "No module named"
_SEND = "install constraints.txt there, and send the code along (ray job submit --working-dir .)"
_LOOK = (
    "look at that machine, its network and its raylet's log (a changed token or a full disk are "
    "enough), or stop Ray there"
)


@dataclass
class NodeReports:
    """What came back from the nodes, by their names."""

    machines: dict[str, MachineReport] = field(default_factory=dict)
    skews: dict[str, float] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, machine: MachineReport, asked: float, answered: float) -> None:
        self.machines[name] = machine
        self.skews[name] = least_skew_s(machine.clock_s, asked + machine.took_s, answered)

    @property
    def autoscaler(self) -> Autoscaler | None:
        return next((m.autoscaler for m in self.machines.values() if m.autoscaler), None)


def check_this_machine(config: RunConfig) -> list[Verdict]:
    """This machine alone, without a Ray: would a run or study do here?"""
    here = connectivity.local_resources()
    wanted = MachineQuery(config.model.encoder, connectivity.ray_temp_folder(), _GPU_WITHIN_S)
    needs_gpu = config.scaling.use_gpu is True
    with StorageMarkers(storage_folder(config.storage)) as notes:
        machine = inspect_machine(wanted)
        return [
            *judge_versions({"this machine": machine.versions}),
            judge_token(machine.token, joins="RAY_ADDRESS" in os.environ),
            judge_own_storage(notes),
            *_disks(config, notes.storage, {"this machine": machine}),
            judge_resources(config, [here], [])[0],
            judge_gpus(machine.gpus, counted=int(here.get("GPU", 0)), is_needed=needs_gpu),
            machine.encoder.verdict,
            *judge_ports(config.serve, with_dashboard=True),
        ]


def check_cluster(config: RunConfig) -> list[Verdict]:
    """Every node of the Ray that a run would get; a local one is started where there is none."""
    refusal = connectivity.judge_connection(find_token())
    if refusal is not None:
        return [refusal]
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_connection())
        except (ClusterError, ConnectionError, RuntimeError, RayError) as error:
            found = one_line(error, limit=300)
            return [Verdict("cluster", "wrong", found, "start Ray, or correct RAY_ADDRESS")]
        with StorageMarkers(storage_folder(config.storage)) as notes:
            nodes = _alive()
            answers = query_nodes(config, nodes, notes, gpu_within_s=_GPU_WITHIN_S)
            return [
                Verdict("cluster", "ok", f"{len(nodes)} node(s): {join_names(nodes)}"),
                *_missing(nodes, answers),
                *_essential(config, nodes, answers, notes),
                *judge_tokens(
                    {name: m.token for name, m in answers.machines.items()},
                    is_asked_for=connectivity.requires_token(),
                ),
                *judge_clocks(answers.skews),
                *connectivity.judge_dashboard(),
                *judge_ports(config.serve, with_dashboard=False),
            ]


def check_before_run(
    config: RunConfig, storage: Location, *, warn: Callable[[str], None] = lambda line: None
) -> Nodes:
    """What can be said at once before a run or study takes anything; Ray is connected.

    On one machine it looks around, on several it runs one task on each.

    Args:
        config: What is about to run.
        storage: Where it will be kept.
        warn: Called with a line for what will not stop it.

    Returns:
        The nodes to reckon with: those that are there, and those that the autoscaler may add.

    Raises:
        ClusterError: With the first thing that is wrong, and what to change.
    """
    nodes = _alive()
    with StorageMarkers(storage) as notes:
        answers = query_nodes(config, nodes, notes, gpu_within_s=0.0)
        verdicts = _essential(config, nodes, answers, notes)
        verdicts += [v for v in _missing(nodes, answers) if v.state == "warning"]
    wrong = first_wrong(verdicts)
    if wrong is not None:
        raise ClusterError(wrong.line())
    for verdict in verdicts:
        if verdict.state == "warning":
            warn(verdict.line())
    return [*_sizes(nodes), *_addable(nodes, answers)]


def query_nodes(
    config: RunConfig, nodes: Mapping[str, Any], notes: StorageMarkers, *, gpu_within_s: float
) -> NodeReports:
    """Look at every node: from inside where it is the one that this runs on, by tasks else."""
    answers = NodeReports()
    wanted = MachineQuery(
        config.model.encoder,
        connectivity.ray_temp_folder(),
        gpu_within_s,
        connectivity.session_logs_folder(),
    )
    if len(nodes) == 1 and connectivity.is_node_here(next(iter(nodes.values()))["NodeID"]):
        (name,) = nodes
        asked = time.time()
        answers.take(name, inspect_machine(wanted, partial(notes.leave, name)), asked, time.time())
        return answers
    asked = time.time()
    waiting = {_on(node).remote(wanted, notes, name): name for name, node in nodes.items()}
    end = time.monotonic() + _ANSWER_WITHIN_S
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        answered, name = time.time(), waiting.pop(ready[0])
        try:
            answers.take(name, ray.get(ready[0]), asked, answered)
        except (RayError, ImportError, AttributeError) as error:
            answers.silent[name] = _why(error)
    for ref, name in waiting.items():
        ray.cancel(ref, force=True)
        answers.silent[name] = f"no answer within {_ANSWER_WITHIN_S:g} s"
    return answers


def judge_resources(
    config: RunConfig, there: Nodes, addable: Nodes
) -> tuple[Verdict, Resources | None]:
    """Whether what is configured finds a place; and what each worker takes, if it does.

    Reckoned as the run or study itself will: with machines that the autoscaler has yet to add.
    """
    nodes = [*there, *addable]
    is_study = isinstance(config, StudyConfig)
    try:
        each = (trial_resources if is_study else run_resources)(config, nodes)
    except ClusterError as error:
        found, _, remedy = str(error).partition("; lower ")
        return Verdict("resources", "wrong", found, f"lower {remedy}" if remedy else ""), None
    in_all = _share(config, each, nodes)
    if worker_capacity(each, there) < config.scaling.least:
        found = f"only with machines that the autoscaler has yet to add: {in_all}"
        return Verdict("resources", "warning", found, "nothing; it begins minutes later"), each
    found = _share(config, each, there)
    if addable and is_study:
        found += f"; {in_all} once all machines are there"
    return Verdict("resources", "ok", found), each


def judge_network(
    config: RunConfig,
    nodes: Mapping[str, Any],
    machines: Mapping[str, MachineReport],
    each: Resources | None,
) -> list[Verdict]:
    """Whether workers on several machines find each other; nothing where there are none on CPUs.

    Args:
        each: What a worker takes; None where nothing fits.
    """
    sizes = (
        {name: worker_capacity(each, [nodes[name]["Resources"]]) for name in machines}
        if each
        else {}
    )
    hosts = {nodes[name]["NodeManagerAddress"] for name, room in sizes.items() if room}
    holds_all = max(sizes.values(), default=0) >= config.scaling.most
    if each is None or each.gpus or holds_all or len(hosts) < 2:
        return []
    return [judge_gloo({name: machines[name].gloo_address for name, n in sizes.items() if n})]


def _share(config: RunConfig, each: Resources, nodes: Nodes) -> str:
    """What runs at once where there are such nodes."""
    scaling = config.scaling
    if isinstance(config, StudyConfig):
        count = trials_at_once(config, each, config.study.max_concurrent, nodes)
        what = f"{count} trial(s) at once, {scaling.most} worker(s) each"
    elif scaling.least == scaling.most:
        what = f"{scaling.most} worker(s)"
    else:
        what = f"{scaling.least} to {scaling.most} workers"
    gpus = f" and {each.gpus:g} GPU" if each.gpus else ""
    return f"{what} of {each.cpus} CPU{gpus}"


def _essential(
    config: RunConfig, nodes: Mapping[str, Any], answers: NodeReports, notes: StorageMarkers
) -> list[Verdict]:
    """What a run or study would fail of, in the order in which it would."""
    machines = answers.machines
    sums, each = judge_resources(config, _sizes(nodes), _addable(nodes, answers))
    seen = {name: m.seen for name, m in machines.items() if m.seen is not None}
    return [
        *_silent(answers),
        *judge_versions(
            {_DRIVER: installed_versions()} | {n: m.versions for n, m in machines.items()}
        ),
        *judge_storage(notes, seen, idle=frozenset(n for n in nodes if _is_idle(nodes[n]))),
        *_disks(config, notes.storage, machines),
        sums,
        *_gpus(nodes, machines, is_needed=each is not None and each.gpus > 0),
        *judge_network(config, nodes, machines, each),
        *merge_verdicts({name: m.encoder.verdict for name, m in machines.items()}),
    ]


def _disks(
    config: RunConfig, storage: Location, machines: Mapping[str, MachineReport]
) -> list[Verdict]:
    found = judge_ray_disk({name: m.disk for name, m in machines.items()})
    weights = max((m.encoder.weights_bytes for m in machines.values()), default=0)
    if isinstance(storage, Path):
        found.append(judge_storage_disk(measure_disk(storage), estimate_disk_need(config, weights)))
    return found


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


def _silent(answers: NodeReports) -> list[Verdict]:
    groups: dict[str, list[str]] = {}
    for name, why in answers.silent.items():
        groups.setdefault(why, []).append(name)
    return [
        Verdict(
            "nodes", "wrong", f"{join_names(names)}: {why}", _SEND if _LACKING in why else _LOOK
        )
        for why, names in groups.items()
    ]


def _missing(nodes: Mapping[str, Any], answers: NodeReports) -> list[Verdict]:
    if answers.autoscaler is None:
        return []
    alive = [node["NodeManagerAddress"] for node in nodes.values()]
    running = answers.autoscaler.running(list(nodes.values()))
    return judge_nodes(answers.autoscaler, alive, running)


def _addable(nodes: Mapping[str, Any], answers: NodeReports) -> list[dict[str, float]]:
    if answers.autoscaler is None:
        return []
    return answers.autoscaler.may_add(answers.autoscaler.running(list(nodes.values())))


def _sizes(nodes: Mapping[str, Any]) -> list[dict[str, float]]:
    return [node["Resources"] for node in nodes.values()]


def _alive() -> dict[str, Any]:
    """The nodes that are there, by a name that a person knows; the head first."""
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: (_HEAD not in node["Resources"], node["NodeManagerAddress"]),
    )
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return {_name(node, addresses): node for node in nodes}


def _name(node: Mapping[str, Any], addresses: Sequence[str]) -> str:
    address: str = node["NodeManagerAddress"]
    # Several on one machine, as in tests.
    return address if addresses.count(address) == 1 else f"{address}-{node['NodeID'][:6]}"


def _is_idle(node: Mapping[str, Any]) -> bool:
    """Whether no worker will ever be there, nor the driver is."""
    is_driver = connectivity.is_node_here(node["NodeID"])
    return not node["Resources"].get("CPU") and not is_driver


def _look(wanted: MachineQuery, notes: StorageMarkers, name: str) -> MachineReport:
    leave: Callable[[], StorageReport] = partial(notes.leave, name)
    return inspect_machine(wanted, leave)


_look_there = ray.remote(num_cpus=0, max_retries=0)(_look)


def _on(node: Mapping[str, Any]) -> Any:
    """The task that looks around on that node and on no other."""
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return _look_there.options(scheduling_strategy=place, name="doctor")


def _why(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return f"cannot be asked ({last.strip()[:200]})"
