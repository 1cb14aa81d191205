"""Whether workers on several machines can meet: Gloo, which those on CPUs speak, may be deaf.

It listens where the machine's own name leads, or on loopback where that leads nowhere. Debian and
Ubuntu write the name to 127.0.1.1, and ranks on two such machines wait for each other for ever.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping

from mbti_ray.checks.verdict import Verdict, join_names

_CHECK = "network"
_INTERFACE = "GLOO_SOCKET_IFNAME"


def gloo_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """Where Gloo would listen on this machine; None where the environment names an interface."""
    if environment.get(_INTERFACE):
        return None
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        # torch says so in a warning, and goes on with this one.
        return "127.0.0.1"


def judge_gloo(addresses: Mapping[str, str | None]) -> Verdict:
    """Of the machines on which workers of one run will be."""
    deaf = [m for m, at in addresses.items() if at and ipaddress.ip_address(at).is_loopback]
    if not deaf:
        return Verdict(_CHECK, "ok", "workers on several machines find each other")
    found = (
        f"Gloo would listen on loopback on {join_names(deaf)}, where no other machine reaches it"
    )
    remedy = (
        f"set {_INTERFACE} to the network interface in the environment of `ray start` there, as "
        "clusters/node/environment.sh does"
    )
    return Verdict(_CHECK, "wrong", found, remedy)
