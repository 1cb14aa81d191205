"""The ports of the service and the dashboard."""

import os
import socket
from contextlib import closing

from mbti_ray.checks.verdict import Verdict
from mbti_ray.config.serve_section import ServeConfig

_CHECK = "ports"
_DASHBOARD = 8265
# HAProxy opens these, too, on all interfaces; Ray cannot bind them to one.
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}


def port_problem(host: str, port: int) -> str | None:
    """Why the port cannot be bound; None if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def judge_ports(config: ServeConfig, *, with_dashboard: bool) -> list[Verdict]:
    """The ports on this machine; only the service needs them, so a used port is a warning."""
    needed = [(config.host, config.port, "serve.port", "set serve.port to a free port")]
    for name, default in HAPROXY_PORTS.items():
        port = int(os.environ.get(name, default))
        needed.append(("", port, "HAProxy of the service", f"set {name} to a free port"))
    if with_dashboard:
        remedy = "another Ray may run here; the next free port will be used"
        needed.append(("127.0.0.1", _DASHBOARD, "dashboard", remedy))
    taken = [
        Verdict(_CHECK, "warning", f"{host or '*'}:{port} ({use}): {reason}", remedy)
        for host, port, use, remedy in needed
        if (reason := port_problem(host, port)) is not None
    ]
    free = ", ".join(str(port) for _, port, _, _ in needed)
    return taken or [Verdict(_CHECK, "ok", f"{free} are free")]
