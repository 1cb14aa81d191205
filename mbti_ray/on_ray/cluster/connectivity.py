"""The Ray that a command would get: where it is, and whether this machine is let in.

Asked before `ray.init`, which takes long to say less.
"""

import os
import socket
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import ray
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import compute_version_info, get_num_cpus
from ray.exceptions import AuthenticationError, RayError

from mbti_ray.checks.token import Token, judge_refused_token
from mbti_ray.checks.verdict import Verdict
from mbti_ray.errors import one_line

# Compiled, and without types.
_raylet: Any = ray._raylet
_CHECK = "cluster"
_TIMEOUT_S = 4.0
_DASHBOARD_TIMEOUT_S = 2.0
_SUBMIT = "ray job submit --working-dir . -- python -m mbti_ray.doctor --cluster"


def ray_temp_folder() -> Path:
    """Where the Ray of this process keeps, or would keep, logs and what memory does not hold."""
    if ray.is_initialized():
        return Path(_node().get_session_dir_path()).parent
    return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")


def session_logs_folder() -> Path:
    """The logs of the session that is connected, under the same path on every node."""
    return Path(_node().get_logs_dir_path())


def requires_token() -> bool:
    """Whether the Ray of this process lets only those in that show its token."""
    return bool(_raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN)


def is_node_here(node_id: str) -> bool:
    """Whether that node is the one of this process."""
    return bool(ray.get_runtime_context().get_node_id() == node_id)


def local_resources() -> dict[str, float]:
    """What a Ray that is started on this machine would have to give out."""
    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    resources = {"CPU": float(get_num_cpus())}
    return resources | ({"GPU": float(gpus)} if gpus else {})


def judge_connection(token: Token) -> Verdict | None:
    """Why the Ray that runs would not take a driver of this machine; None if it would.

    None, too, where there is none, so that one would be started.

    Args:
        token: That of this machine.
    """
    if ray.is_initialized():
        return None
    address = canonicalize_bootstrap_address(None)
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S).close()
    except OSError as error:
        return _wrong(f"no Ray answers at {address} ({error.strerror or error})", _start_or_name())
    return _ask_head(address, token)


def judge_dashboard() -> list[Verdict]:
    """Whether the dashboard can be looked at from here."""
    url = ray._private.worker.get_dashboard_url()
    if not url:
        return [Verdict("dashboard", "warning", "none runs", "pip install 'ray[default]'")]
    host, _, port = url.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _DASHBOARD_TIMEOUT_S).close()
    except OSError as error:
        found = f"{url} is not reached from here ({error.strerror or error})"
        remedy = "look at it through `ray dashboard CLUSTER.yaml`, or an ssh tunnel to the head"
        return [Verdict("dashboard", "warning", found, remedy)]
    return [Verdict("dashboard", "ok", f"http://{url}")]


def _ask_head(address: str, token: Token) -> Verdict | None:
    """Versions and nodes as the head has them, in a thread: its client cannot be told to hurry."""
    found: list[Any] = []

    def call() -> None:
        try:
            client = _raylet.GcsClient(address=address)
            nodes = client.get_all_node_info().values()
            found.append((get_cluster_metadata(client), [n.node_manager_address for n in nodes]))
        except (RayError, RuntimeError) as error:
            found.append(error)

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_TIMEOUT_S)
    if not found:
        return _wrong(f"{address} is open, but no Ray answers there", _start_or_name())
    if isinstance(found[0], AuthenticationError):
        return judge_refused_token(token, address)
    if isinstance(found[0], Exception):
        return _wrong(f"{address}: {one_line(found[0], limit=200)}", _start_or_name())
    return _judge_head(address, *found[0])


def _judge_head(address: str, versions: dict[str, str] | None, nodes: list[str]) -> Verdict | None:
    here = _versions_here()
    there = {name: (versions or here).get(name, here[name]) for name in here}
    if there != here:
        said = " and ".join(f"{name} {there[name]}" for name in here)
        own = " and ".join(f"{name} {value}" for name, value in here.items())
        remedy = f"pip install 'ray=={there['ray']}' with Python {there['python']} on this machine"
        return _wrong(f"{address} runs {said}, this machine has {own}", remedy)
    if not any(_is_own(node) for node in nodes):
        found = f"this machine is no node of the Ray at {address}, and a driver has to be on one"
        return _wrong(found, f"send the command there: {_SUBMIT}")
    return None


def _versions_here() -> dict[str, str]:
    ray_version, python = compute_version_info()
    return {"ray": ray_version, "python": python}


def _is_own(address: str) -> bool:
    """Whether an address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def _wrong(found: str, remedy: str) -> Verdict:
    return Verdict(_CHECK, "wrong", found, remedy)


def _start_or_name() -> str:
    if os.environ.get("RAY_ADDRESS"):
        return "correct RAY_ADDRESS, or start Ray there"
    return "`ray stop` once: it takes away the note of a Ray that is gone"


def _node() -> Any:
    return ray._private.worker.global_worker.node
