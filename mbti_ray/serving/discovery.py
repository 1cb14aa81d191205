"""The discovery file of a running service, by which this user's commands find the Ray it runs in.

Whoever can write it controls which Ray they connect to. Must know nothing of Ray but the names of
two environment variables.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbti_ray.errors import ClusterError, StorageError
from mbti_ray.storage.atomic import write_text
from mbti_ray.storage.local_cache import user_cache_folder
from mbti_ray.storage.working_copy import private_folder

logger = logging.getLogger(__name__)

_AUTH_MODE = "RAY_AUTH_MODE"
_VARIABLES = ("RAY_ADDRESS", _AUTH_MODE)


@contextmanager
def announce_service(port: int, address: str) -> Iterator[None]:
    """Other commands find the service in the Ray at `address` until the end of the block.

    If the file cannot be written, or its folder is not private, the service runs without one.
    """
    # A local Ray requires its token by default; a client that connects to it has to ask for that.
    variables = {"RAY_ADDRESS": address, _AUTH_MODE: os.environ.get(_AUTH_MODE, "")}
    try:
        file = _discovery_file(port)
        write_text(file, json.dumps(variables))
    except StorageError as error:
        logger.warning("%s; until then --roll-out needs RAY_ADDRESS=%s", error, address)
        yield
        return
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_ray_environment(port: int) -> dict[str, str] | None:
    """The environment in which Ray connects to the service on a port; None if there is no file.

    Raises:
        StorageError, ClusterError: The folder is not this user's alone; the file is damaged.
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
    # Not in XDG_RUNTIME_DIR, which is deleted when the login session that started the service ends.
    folder = private_folder(user_cache_folder() / "services")
    return folder / f"{socket.gethostname()}-{port}.json"
