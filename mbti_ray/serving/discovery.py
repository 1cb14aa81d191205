"""The discovery file of a running service, by which other commands find the Ray it runs in.

One file per host and port, in a folder that only this user can access: whoever can write it decides
which Ray the commands of this user trust. Knows nothing of Ray except the names of two environment
variables.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbti_ray.errors import ClusterError
from mbti_ray.storage.atomic import write_text
from mbti_ray.storage.local_cache import user_cache_folder
from mbti_ray.storage.private_folder import private_folder

_AUTH_MODE = "RAY_AUTH_MODE"
_VARIABLES = ("RAY_ADDRESS", _AUTH_MODE)


@contextmanager
def announce_service(port: int, address: str) -> Iterator[None]:
    """Other commands of this user find the service by its port until the end of the block.

    Args:
        address: Of the Ray that the service runs in.

    Raises:
        StorageError: The folder is not this user's alone.
    """
    file = _discovery_file(port)
    # A local Ray requires its token by default; a client that connects to it has to ask for that.
    variables = {"RAY_ADDRESS": address, _AUTH_MODE: os.environ.get(_AUTH_MODE, "")}
    write_text(file, json.dumps(variables))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_ray_environment(port: int) -> dict[str, str] | None:
    """The environment in which Ray connects to the service on a port; None if there is no file.

    Raises:
        StorageError: The folder is not this user's alone.
        ClusterError: The file is damaged.
    """
    file = _discovery_file(port)
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as opened:
            variables = json.load(opened)
        return {name: str(variables[name]) for name in _VARIABLES if variables[name]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(f"{file}: is damaged; delete it and set RAY_ADDRESS instead") from None


def _discovery_file(port: int) -> Path:
    # Below the home, not in XDG_RUNTIME_DIR: that one ends with the login in which a service was
    # started, and is not there for a cron job. Several hosts may share a home.
    folder = private_folder(user_cache_folder() / "services")
    return folder / f"{socket.gethostname()}-{port}.json"
