"""Whether CPU workers on several machines can connect: Gloo may bind to loopback.

Gloo binds to the address of the host name, or to loopback if it has none. Debian and Ubuntu resolve
the host name to 127.0.1.1, and ranks on two such machines wait for each other for ever.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping

from mbti_ray.checks.verdict import Verdict, join_names

_CHECK = "network"
_INTERFACE = "GLOO_SOCKET_IFNAME"
_REMEDY = (
    f"set {_INTERFACE} to the network interface in the environment of `ray start` there, as "
    "clusters/node/environment.sh does"
)


def gloo_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """The address that Gloo would bind to; None if the environment sets an interface."""
    if environment.get(_INTERFACE):
        return None
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        # torch warns and uses this address.
        return "127.0.0.1"


def judge_gloo(addresses: Mapping[str, str | None]) -> Verdict:
    """The machines on which the workers of one run will be."""
    on_loopback = [m for m, at in addresses.items() if at and ipaddress.ip_address(at).is_loopback]
    if not on_loopback:
        return Verdict(_CHECK, "ok", "workers on several machines can connect")
    message = f"Gloo would bind to loopback on {join_names(on_loopback)}, unreachable for others"
    return Verdict(_CHECK, "wrong", message, _REMEDY)
