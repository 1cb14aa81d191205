"""The connection to Ray, and what the cluster has: who gets how much of it.

Sums only; what is done with a worker's share is up to `training` and `tuning`.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.job_config import JobConfig

from mbti_ray.config import RunConfig
from mbti_ray.errors import ClusterError

# What each machine has, by the names that Ray gives it.
Nodes = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Resources:
    """What one worker of a run takes.

    Attributes:
        cpus: CPUs, and threads of torch.
        gpus: GPUs, 0 or 1, or a share of one.
    """

    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        """What torch computes on with them; Ray shows a process GPUs that are not its own."""
        return "cuda" if self.gpus else "cpu"

    def as_dict(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}


@contextmanager
def ray_connection(job: str | None = None) -> Iterator[None]:
    """A Ray to work on: the one that is connected, the one RAY_ADDRESS names, or a local one.

    One that was started here is stopped at the end, whatever happens.

    Args:
        job: What the dashboard calls what this process does.

    Raises:
        ClusterError: The one that RAY_ADDRESS names does not answer, or wants a token.
    """
    if ray.is_initialized():
        yield
        return
    # What workers print is in the dashboard; here it would be Ray's own remarks. What goes wrong in
    # a worker comes as an exception, and how far it is through `progress`.
    try:
        job_config = JobConfig(metadata={"job_name": job} if job else {})
        ray.init(logging_level=logging.ERROR, log_to_driver=False, job_config=job_config)
    except ConnectionError:
        address = os.environ.get("RAY_ADDRESS")
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray answers there; where one runs, it may want its token: "
            "set RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def run_resources(config: RunConfig, nodes: Nodes | None = None) -> Resources:
    """What each worker of a single run takes: by default its part of all the CPUs there are.

    Args:
        config: The run.
        nodes: Those to reckon with; None is those that are there.

    Raises:
        ClusterError: The cluster does not hold `scaling.workers` of them.
    """
    nodes = cluster_nodes() if nodes is None else nodes
    gpus = _gpus_per_worker(config, nodes)
    cpus = config.scaling.cpus
    if cpus is None:
        most = max(int(node.get("CPU", 0)) for node in nodes)
        # A worker lives on one machine: the most CPUs with which all of them find a place.
        room = worker_capacity(Resources(1, gpus), nodes)
        wanted = min(config.scaling.most, max(config.scaling.least, room))
        fitting = (
            c for c in range(most, 0, -1) if worker_capacity(Resources(c, gpus), nodes) >= wanted
        )
        cpus = next(fitting, 1)
    return _checked(config, Resources(cpus, gpus), nodes)


def trial_resources(config: RunConfig, nodes: Nodes | None = None) -> Resources:
    """What each worker of a trial takes: by default one CPU, so that trials run side by side.

    Args:
        config: The study.
        nodes: Those to reckon with; None is those that are there.

    Raises:
        ClusterError: The cluster does not hold `scaling.workers` of them.
    """
    nodes = cluster_nodes() if nodes is None else nodes
    gpus = _gpus_per_worker(config, nodes) * config.scaling.gpus
    return _checked(config, Resources(config.scaling.cpus or 1, gpus), nodes)


def trials_at_once(
    config: RunConfig, resources: Resources, limit: int | None, nodes: Nodes | None = None
) -> int:
    """How many trials run side by side: as many as the cluster holds, or at most the limit.

    Trials of one worker may wait for machines that are still to come, so a limit counts even above
    what there is room for now. Of trials of several workers Tune is never told more than fit: those
    that have their driver but not their workers would wait for each other for ever.
    """
    fits = (
        worker_capacity(resources, cluster_nodes() if nodes is None else nodes)
        // config.scaling.most
    )
    if limit is None or config.scaling.most > 1:
        return max(1, min(fits, limit or fits))
    return limit


def workers_at_once(resources: Resources, limit: int | None) -> int:
    """How many such workers the cluster holds now, or the limit if that is lower; one at least."""
    room = worker_capacity(resources, cluster_nodes())
    return max(1, min(room, limit or room))


def cluster_nodes() -> list[dict[str, float]]:
    """What each machine of the cluster has, all of it, taken or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_capacity(each: Resources, nodes: Nodes) -> int:
    """How many such workers the machines hold together, were nothing taken."""
    return sum(
        # 1 // 0.1 is 9.
        min(int(node.get(name, 0) / need + 1e-9) for name, need in each.as_dict().items())
        for node in nodes
    )


def _gpus_per_worker(config: RunConfig, nodes: Nodes) -> int:
    wanted = config.scaling.use_gpu
    if wanted == "auto":
        # All workers of a run are alike: one GPU each, or none.
        return int(worker_capacity(Resources(1, 1), nodes) >= config.scaling.least)
    return int(wanted)


def _checked(config: RunConfig, each: Resources, nodes: Nodes) -> Resources:
    workers, room = config.scaling.least, worker_capacity(each, nodes)
    if room < workers:
        takes = " and ".join(f"{n:g} {name}" for name, n in each.as_dict().items())
        machines = "; ".join(
            f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes
        )
        raise ClusterError(
            f"scaling.workers={workers}: a worker takes {takes}, and the cluster ({machines}) has "
            f"room for {room}; lower scaling.workers"
            + (", or set scaling.use_gpu=false" if each.gpus else "")
        )
    return each
