"""The environment in which Ray starts HAProxy. Ray reads it at import, so this imports no Ray."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mbti_ray.config.serve_section import ServeConfig

# On two cores HAProxy with the throughput settings answered 528 requests a second where Ray's own
# proxy answered 97.
FAST_PATH = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # Requests are idempotent: those that a lost replica left unanswered go to another one.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    # Ray waits 30 s for external load balancers to notice a draining replica; there are none.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
# Where Ray is started here, that is, not on a cluster.
_LOCAL = {
    # Ray calls it in its proxies as well, which on a cluster may not have this package.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mbti_ray.on_ray.serve.disconnects:middleware",
    # At Ray's 15 a replica gets 3 % of a core on which another process is busy.
    "RAY_worker_niceness": "0",
}
# The admin socket has mode 666: any user who can reach it can redirect requests.
PRIVATE_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state/servers",
}
# Disconnects silent clients (default: 3,600 s), but not before the deadline's 504.
CLIENT_TIMEOUT = "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"
_AFTER_DEADLINE_S = 5
# A socket path has at most 107 bytes, of which Ray takes 57 for the node and HAProxy 12 to bind.
_MAX_TEMPORARY_BYTES = 107 - 57 - 12 - len("/mbti-12345678/admin.sock")


@contextmanager
def haproxy_environment(config: ServeConfig) -> Iterator[None]:
    """Sets the variables that are not set yet; HAProxy's files lie in a folder of this user alone.

    The folder is deleted at the end of the block.
    """
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_TEMPORARY_BYTES:
        parent = "/tmp"
    with tempfile.TemporaryDirectory(
        dir=parent, prefix="mbti-", ignore_cleanup_errors=True
    ) as folder:
        timeout_s = math.ceil(config.deadline_s) + _AFTER_DEADLINE_S
        paths = {name: f"{folder}/{file}" for name, file in PRIVATE_FILES.items()}
        variables = {**FAST_PATH, **_LOCAL, CLIENT_TIMEOUT: str(timeout_s), **paths}
        for name, value in variables.items():
            os.environ.setdefault(name, value)
        yield
