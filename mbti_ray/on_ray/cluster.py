"""The connection to Ray, and what the cluster has: who gets how much of it.

Sums only; what is done with a worker's share is up to `training` and `tuning`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from mbti_ray.config import RunConfig
from mbti_ray.errors import ClusterError


@dataclass(frozen=True)
class Resources:
    """What one worker of a run takes.

    Attributes:
        cpus: CPUs, and threads of torch.
        gpus: Whole GPUs, 0 or 1.
    """

    cpus: int
    gpus: int

    def as_dict(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}


@contextmanager
def connected() -> Iterator[None]:
    """A Ray to work on: the one that is connected, the one RAY_ADDRESS names, or a local one.

    One that was started here is stopped at the end, whatever happens.
    """
    if ray.is_initialized():
        yield
        return
    ray.init(logging_level=logging.ERROR, log_to_driver=True)
    try:
        yield
    finally:
        ray.shutdown()


def run_resources(config: RunConfig) -> Resources:
    """What each worker of a single run takes: by default its part of all the CPUs there are.

    Raises:
        ClusterError: The cluster does not hold `scaling.workers` of them.
    """
    workers = config.scaling.workers
    total = _total("CPU")
    gpus = _gpus_per_worker(config)
    cpus = config.scaling.cpus or max(1, int(total) // workers)
    _check_fits(workers, Resources(cpus, gpus), config)
    return Resources(cpus, gpus)


def trial_resources(config: RunConfig) -> Resources:
    """What each worker of a trial takes: by default one CPU, so that trials run side by side."""
    resources = Resources(config.scaling.cpus or 1, _gpus_per_worker(config))
    _check_fits(config.scaling.workers, resources, config)
    return resources


def trials_at_once(config: RunConfig, resources: Resources, limit: int | None) -> int:
    """How many trials the cluster holds at once, or the limit if that is lower.

    Tune is never told more than this: with more, trials that have their driver but not their
    workers would wait for each other for ever.
    """
    workers = config.scaling.workers
    fits = int(_total("CPU") // (workers * resources.cpus))
    if resources.gpus:
        fits = min(fits, int(_total("GPU") // (workers * resources.gpus)))
    return max(1, min(fits, limit or fits))


def _total(resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0.0))


def _gpus_per_worker(config: RunConfig) -> int:
    wanted = config.scaling.use_gpu
    if wanted == "auto":
        # All workers of a run are alike: one GPU each, or none.
        return int(_total("GPU") >= config.scaling.workers)
    return int(wanted)


def _check_fits(workers: int, each: Resources, config: RunConfig) -> None:
    for name, need in (("CPU", workers * each.cpus), ("GPU", workers * each.gpus)):
        have = _total(name)
        if need > have:
            raise ClusterError(
                f"scaling.workers={workers} with {need // workers} {name} each needs {need}, "
                f"the cluster has {have:g} {name}; lower scaling.workers"
                + (" or scaling.cpus" if config.scaling.cpus and name == "CPU" else "")
                + (" or set scaling.use_gpu=false" if name == "GPU" else "")
            )
