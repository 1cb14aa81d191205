"""The connection to Ray, and how many CPUs and GPUs each worker gets.

Must not know what workers do with them.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import RayError
from ray.job_config import JobConfig

from mbti_ray.checks.verdict import Verdict
from mbti_ray.config import RunConfig, StudyConfig
from mbti_ray.errors import ClusterError, counted, one_line
from mbti_ray.on_ray.signals import keep_sigterm_handler

# For a Ray that is started here for one run.
_LOCAL_RUN = {
    # Nobody takes this machine away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray Train's processes have an environment of their own, so none started in advance is used.
    "RAY_prestart_worker_first_driver": "0",
}
# The resources of each machine, by Ray's names.
Nodes = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Resources:
    """The resources of one worker: CPUs, as many torch threads, and up to one GPU."""

    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        """The torch device; a process may see GPUs that Ray did not assign to it."""
        return "cuda" if self.gpus else "cpu"

    def as_dict(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}


@contextmanager
def ray_connection(job: str | None = None, *, is_run: bool = False) -> Iterator[str | None]:
    """Connects to Ray: to the one at RAY_ADDRESS, or to a local one that it starts.

    Yields the URL of its dashboard, if it has one; `job` is the name of the job there, which with
    `is_run` is one run of Ray Train. Disconnects at the end, unless the process was connected
    before. ClusterError where the Ray does not answer, requires a token or has another version.
    """
    if ray.is_initialized():
        yield None
        return
    named = os.environ.get("RAY_ADDRESS")
    # The output of workers is on the dashboard. Their errors arrive as exceptions, and their
    # progress by reports.
    try:
        if is_run and canonicalize_bootstrap_address(None) is None:
            for name, value in _LOCAL_RUN.items():
                os.environ.setdefault(name, value)
        job_config = JobConfig(metadata={"job_name": job} if job else {})
        with keep_sigterm_handler():
            context = ray.init(
                logging_level=logging.ERROR, log_to_driver=False, job_config=job_config
            )
    except ConnectionError:
        raise ClusterError(
            f"RAY_ADDRESS={named}: no Ray answers there; if one runs, it may require its token: "
            "set RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token"
        ) from None
    except (RuntimeError, ValueError, RayError) as error:
        # Such as another version of Ray or Python there, or what is no address.
        where = f"RAY_ADDRESS={named}" if named else "Ray does not start"
        raise ClusterError(f"{where}: {one_line(error, limit=400)}") from None
    url = context.dashboard_url
    try:
        yield f"http://{url}" if url else None
    finally:
        ray.shutdown()


def run_resources(config: RunConfig, nodes: Nodes) -> Resources:
    """The resources of each worker of a run: by default an equal share of all CPUs.

    ClusterError where the nodes have not enough for all workers.
    """
    gpus = _gpus_per_worker(config, nodes)
    cpus = config.scaling.cpus
    if cpus is None:
        most = max(int(node.get("CPU", 0)) for node in nodes)
        # A worker runs on one machine: the largest number of CPUs with which all of them fit.
        capacity = worker_capacity(Resources(1, gpus), nodes)
        wanted = min(config.scaling.most, max(config.scaling.least, capacity))
        fitting = (
            c for c in range(most, 0, -1) if worker_capacity(Resources(c, gpus), nodes) >= wanted
        )
        cpus = next(fitting, 1)
    return _checked(config, Resources(cpus, gpus), nodes)


def trial_resources(config: RunConfig, nodes: Nodes) -> Resources:
    """The resources of each worker of a trial: by default one CPU, so that trials run in parallel.

    ClusterError as in `run_resources`.
    """
    gpus = _gpus_per_worker(config, nodes) * config.scaling.gpus
    return _checked(config, Resources(config.scaling.cpus or 1, gpus), nodes)


def concurrent_trials(config: StudyConfig, resources: Resources, nodes: Nodes) -> int:
    """How many trials run in parallel: as many as the nodes have capacity for, up to the limit.

    Trials of one worker may wait for machines that are still to be added, so the limit applies even
    above the present capacity. Trials of several workers must all fit: those that have their driver
    but not their workers would wait for each other for ever.
    """
    limit = config.study.max_concurrent
    fits = worker_capacity(resources, nodes) // config.scaling.most
    if limit is None or config.scaling.most > 1:
        return max(1, min(fits, limit or fits))
    return limit


def judge_resources(
    config: RunConfig, there: Nodes, addable: Nodes
) -> tuple[Verdict, Resources | None]:
    """Whether the cluster has capacity for it; and the resources of each worker, if so.

    Machines that the autoscaler may add count, as they do in the run or study itself.
    """
    nodes = [*there, *addable]
    is_study = isinstance(config, StudyConfig)
    try:
        each = (trial_resources if is_study else run_resources)(config, nodes)
    except ClusterError as error:
        message, _, remedy = str(error).partition("; lower ")
        return Verdict("resources", "wrong", message, f"lower {remedy}" if remedy else ""), None
    total = _share(config, each, nodes)
    if worker_capacity(each, there) < config.scaling.least:
        message = f"only with machines that the autoscaler has yet to add: {total}"
        return Verdict("resources", "warning", message, "nothing; it starts minutes later"), each
    message = _share(config, each, there)
    if addable and is_study:
        message += f"; {total} once all machines have joined"
    return Verdict("resources", "ok", message), each


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of each live node, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def worker_capacity(each: Resources, nodes: Nodes) -> int:
    """How many such workers fit on the machines if nothing else runs there."""
    return sum(
        # 1 // 0.1 is 9.
        min(int(node.get(name, 0) / need + 1e-9) for name, need in each.as_dict().items())
        for node in nodes
    )


def _share(config: RunConfig, each: Resources, nodes: Nodes) -> str:
    """What runs in parallel on these nodes."""
    scaling = config.scaling
    if isinstance(config, StudyConfig):
        trials = counted(concurrent_trials(config, each, nodes), "trial")
        what = f"{trials} at once, {counted(scaling.most, 'worker')} each"
    elif scaling.least == scaling.most:
        what = counted(scaling.most, "worker")
    else:
        what = f"{scaling.least} to {scaling.most} workers"
    gpus = f" and {each.gpus:g} GPU" if each.gpus else ""
    return f"{what} of {counted(each.cpus, 'CPU')}{gpus}"


def _gpus_per_worker(config: RunConfig, nodes: Nodes) -> int:
    wanted = config.scaling.use_gpu
    if wanted == "auto":
        # All workers of a run are the same: one GPU each, or none.
        return int(worker_capacity(Resources(1, 1), nodes) >= config.scaling.least)
    return int(wanted)


def _checked(config: RunConfig, each: Resources, nodes: Nodes) -> Resources:
    workers, capacity = config.scaling.least, worker_capacity(each, nodes)
    if capacity < workers:
        takes = " and ".join(f"{n:g} {name}" for name, n in each.as_dict().items())
        machines = "; ".join(
            f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes
        )
        raise ClusterError(
            f"scaling.workers={workers}: a worker takes {takes}, and the cluster ({machines}) has "
            f"capacity for {capacity}; lower scaling.workers"
            + (", or set scaling.use_gpu=false" if each.gpus else "")
        )
    return each
