"""Another bundle for a service that runs: without a pause, on all replicas or on none.

What is wanted stands on a board, an actor that every replica of a service watches. A replica loads
and checks what is wanted beside what it serves, changes over, and says so. When one cannot, what
was served before is wanted again. Serve's own ways were no use: a new deployment stops replicas
before it starts others, and a new `user_config` takes them out of the proxy while it is read.
"""

import logging
import threading
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from mbti_ray.errors import BundleError, ClusterError, MbtiRayError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import RuntimeKind
from mbti_ray.on_ray.serve.rollout_coordinator import Report, make_board, wanted_now
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.serving.router import Shelf
from mbti_ray.serving.target import Wanted

logger = logging.getLogger("ray.serve")

_ROLL_OUT_TIMEOUT_S = 300.0


def watch_board(service: str, replica: str, shelf: Shelf) -> threading.Thread:
    """Keep a replica's shelf as the board of its service wants it, in a thread of its own."""

    def watch() -> None:
        report = Report(shelf.wanted.number)
        board = None
        while True:
            try:
                board = board or make_board(service)
                wanted = ray.get(board.watch.remote(replica, shelf.wanted, report))
            except RayError:
                # Its machine is gone: the next board learns from us.
                board = None
                time.sleep(0.5)
                continue
            if wanted.number != report.number:
                report = _change(shelf, wanted)

    thread = threading.Thread(target=watch, name="board", daemon=True)
    thread.start()
    return thread


def _change(shelf: Shelf, wanted: Wanted) -> Report:
    try:
        shelf.change(wanted)
    except Exception as error:
        logger.error("goes on with %s: %s", shelf.wanted.front, type(error).__name__)
        reason = str(error) if isinstance(error, MbtiRayError) else repr(error)
        return Report(wanted.number, reason)
    logger.warning("serves %s from now on", wanted.describe())
    return Report(wanted.number)


def roll_out(service: str, wanted: Wanted, *, runtime: RuntimeKind, replicas: int) -> Wanted:
    """Have every replica of a service serve something else; what is served then.

    Args:
        runtime: What computes in the service.
        replicas: How many replicas there are at the least.

    Raises:
        BundleError: A bundle cannot be served; what was served before still is.
        ClusterError: Not all replicas changed over in time; what was served before is wanted again.
    """
    board = make_board(service)
    # Before any replica tries: nothing is asked of them that cannot work.
    task = ray.remote(num_cpus=0)(_check)
    trouble = ray.get(task.remote(wanted.places, runtime))
    if trouble:
        raise BundleError(trouble)
    offered: Wanted = ray.get(board.offer.remote(wanted))
    trouble = _outcome(lambda: ray.get(board.reports.remote()), offered.number, replicas)
    if trouble and offered.before:
        ray.get(board.offer.remote(offered.before))
    if trouble:
        raise ClusterError(f"{trouble}; what was served before is served again")
    return offered


def roll_back(service: str, *, runtime: RuntimeKind, replicas: int) -> Wanted:
    """Have a service serve again what it served before the last change.

    Raises:
        BundleError, ClusterError: See `roll_out`; also, there was no change.
    """
    wanted = wanted_now(service)
    if wanted is None or wanted.before is None:
        raise ClusterError("there is nothing to go back to: nothing else was rolled out")
    return roll_out(service, wanted.before, runtime=runtime, replicas=replicas)


def _check(places: tuple[str, ...], runtime: RuntimeKind) -> str | None:
    """Why one of the bundles cannot be served, found without a replica."""
    for place in places:
        try:
            Predictor.load(fetch_bundle(place), runtime=runtime)
        except MbtiRayError as error:
            return str(error)
    return None


def _outcome(reports: Callable[[], dict[str, Report]], number: int, replicas: int) -> str | None:
    """Waits until all replicas have changed over; why not, otherwise."""
    end = time.monotonic() + _ROLL_OUT_TIMEOUT_S
    while time.monotonic() < end:
        found = reports()
        told = [report for report in found.values() if report.number == number]
        trouble = next((report.trouble for report in told if report.trouble), None)
        if trouble:
            return trouble
        if len(told) == len(found) >= replicas:
            return None
        time.sleep(0.1)
    return f"{len(told)} of {len(found)} replicas answered within {_ROLL_OUT_TIMEOUT_S:g} s"
