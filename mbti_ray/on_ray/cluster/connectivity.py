"""Whether a driver on this machine can connect to the running Ray, and the facts of that Ray.

Checked before `ray.init`, which takes longer and reports less.
"""

import os
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import get_num_cpus
from ray.exceptions import AuthenticationError, RayError

from mbti_ray.checks.token import Token, judge_refused_token
from mbti_ray.checks.verdict import Verdict
from mbti_ray.errors import one_line

# Compiled, and without types.
_raylet: Any = ray._raylet
_TIMEOUT_S = 4.0
_SUBMIT = "ray job submit --working-dir . -- python -m mbti_ray.doctor --cluster"


def ray_temp_folder() -> Path:
    """Where the Ray of this process stores, or would store, logs and spilled objects."""
    if ray.is_initialized():
        return Path(_node().get_session_dir_path()).parent
    return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")


def session_logs_folder() -> Path:
    """The log folder of the connected session; the path is the same on every node."""
    return Path(_node().get_logs_dir_path())


def requires_token() -> bool:
    """Whether the Ray of this process requires its token."""
    return bool(_raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN)


def is_node_here(node_id: str) -> bool:
    """Whether this process runs on that node."""
    return bool(ray.get_runtime_context().get_node_id() == node_id)


def is_only_node_here() -> bool:
    """Whether the cluster is this machine alone."""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return len(alive) == 1 and is_node_here(alive[0])


def local_resources() -> dict[str, float]:
    """The resources of a Ray started on this machine."""
    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    resources = {"CPU": float(get_num_cpus())}
    return resources | ({"GPU": float(gpus)} if gpus else {})


def judge_connection(token: Token) -> Verdict | None:
    """Why a driver on this machine cannot connect to the running Ray; None if it can.

    Also None if no Ray is running, as a local one would be started.
    """
    try:
        address = None if ray.is_initialized() else canonicalize_bootstrap_address(None)
    except ValueError as error:
        return _wrong(str(error), _start_or_name())
    if address is None:
        return None
    if problem := _connect_problem(address):
        return _wrong(f"no Ray answers at {address} ({problem})", _start_or_name())
    return _ask_head(address, token)


def judge_dashboard() -> Verdict:
    """Whether the dashboard can be reached from this machine."""
    url = ray._private.worker.get_dashboard_url()
    if not url:
        return Verdict("dashboard", "warning", "not running", "pip install 'ray[default]'")
    if problem := _connect_problem(url):
        remedy = "use `ray dashboard CLUSTER.yaml`, or an SSH tunnel to the head"
        message = f"{url} cannot be reached from here ({problem})"
        return Verdict("dashboard", "warning", message, remedy)
    return Verdict("dashboard", "ok", f"http://{url}")


def _connect_problem(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _ask_head(address: str, token: Token) -> Verdict | None:
    """Asks the head for its nodes, in a thread: its client has no time-out."""
    answers: list[Any] = []

    def call() -> None:
        try:
            nodes = _raylet.GcsClient(address=address).get_all_node_info().values()
            answers.append([node.node_manager_address for node in nodes])
        except (RayError, RuntimeError) as error:
            answers.append(error)

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_S)
    (answer,) = answers or [None]
    if answer is None:
        return _wrong(f"{address} accepts connections, but no Ray answers", _start_or_name())
    if isinstance(answer, AuthenticationError):
        return judge_refused_token(token, address)
    if isinstance(answer, Exception):
        return _wrong(f"{address}: {one_line(answer, limit=200)}", _start_or_name())
    if not any(map(_is_own, answer)):
        message = f"this machine is not a node of the Ray at {address}, and drivers run on nodes"
        return _wrong(message, f"submit the command as a job: {_SUBMIT}")
    return None


def _is_own(address: str) -> bool:
    """Whether it is an address of this machine."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def _wrong(message: str, remedy: str) -> Verdict:
    return Verdict("cluster", "wrong", message, remedy)


def _start_or_name() -> str:
    if os.environ.get("RAY_ADDRESS"):
        return "correct RAY_ADDRESS, or start Ray there"
    return "run `ray stop` once: it deletes the address of a Ray that has ended"


def _node() -> Any:
    return ray._private.worker.global_worker.node
