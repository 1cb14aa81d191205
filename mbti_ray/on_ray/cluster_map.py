"""A map over batches on all nodes of a Ray cluster, for preparing a dataset.

Must not know what is mapped. Imports Ray only once a cluster is worth joining: mistakes in small
data cost no start of Ray.
"""

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from mbti_ray.data.processes import Item, ProcessMap, Result
from mbti_ray.errors import ClusterError, one_line

if TYPE_CHECKING:
    from ray import ObjectRef

# Fewer take less time here than it takes workers of Ray to import what they need.
_WORTH_JOINING = 64
# So many results for each CPU may wait for one that is slower.
_WAITING = 4


class ClusterMap(ProcessMap):
    """A `MapBatches` on the nodes of the cluster at RAY_ADDRESS, where they have more free CPUs.

    Without RAY_ADDRESS, with few batches, or where this machine has as many cores as the cluster
    has CPUs free, it is a `ProcessMap`. A batch whose node is lost is mapped again on another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._joined = ExitStack()

    def __exit__(self, *exception: object) -> None:
        self._joined.close()
        super().__exit__(*exception)

    def __call__(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        items = iter(items)
        head = [*islice(items, _WORTH_JOINING)] if os.environ.get("RAY_ADDRESS") else []
        cpus = self._free_cpus() if len(head) == _WORTH_JOINING else 0
        if cpus > self._processes:
            return map_on_nodes(function, chain(head, items), cpus)
        return super().__call__(function, chain(head, items))

    def _free_cpus(self) -> int:
        import ray

        from mbti_ray.on_ray.cluster.resources import ray_connection

        if not ray.is_initialized():
            self._joined.enter_context(ray_connection("prepare the data"))
        return int(ray.available_resources().get("CPU", 0))


def map_on_nodes(
    function: Callable[[Item], Result], items: Iterable[Item], cpus: int
) -> Iterator[Result]:
    """The results in order, from one task a batch, of which as many run at once as `cpus` says.

    No more wait for a CPU: the autoscaler would add machines for them.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_apply)
    shared = [ray.put(function)]
    pending: deque[ObjectRef[Any]] = deque()
    running: list[ObjectRef[Any]] = []
    try:
        for item in items:
            if len(running) == cpus:
                _, running = ray.wait(running)
                while pending and (pending[0] not in running or len(pending) > _WAITING * cpus):
                    yield ray.get(pending.popleft())
            running.append(task.remote(shared, item))
            pending.append(running[-1])
        while pending:
            yield ray.get(pending.popleft())
    except RayError as error:
        # What the function raised, unless its task could not even be read there.
        if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
            raise error.cause from None
        raise ClusterError(
            f"preparing the data on the cluster: {one_line(error)}; try again, and if memory ran "
            "out, with less beside it"
        ) from None


def _apply(shared: list["ObjectRef[Any]"], item: Any) -> Any:
    return _load(shared[0])(item)


# A function may have a tokenizer, which is much larger than a batch.
@lru_cache(maxsize=1)
def _load(function: "ObjectRef[Any]") -> Any:
    import ray

    # As in a ProcessMap.
    gc.disable()
    return ray.get(function)
