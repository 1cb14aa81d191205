"""The discovery file of a running service, by which other commands find the Ray it runs in.

One file per port, in a folder that only its user may read. Knows nothing of Ray except the names
of two environment variables.
"""

import getpass
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AUTH_MODE = "RAY_AUTH_MODE"


@contextmanager
def announce_service(port: int, address: str) -> Iterator[None]:
    """Other commands find the service by its port until the end of the block.

    Args:
        address: Of the Ray that the service runs in.
    """
    file = _discovery_file(port)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    # A local Ray requires its token by default; a client that connects to it has to ask for that.
    variables = {"RAY_ADDRESS": address, _AUTH_MODE: os.environ.get(_AUTH_MODE, "")}
    file.write_text(json.dumps(variables), "utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_ray_environment(port: int) -> dict[str, str] | None:
    """The environment in which Ray connects to the service on a port; None if there is no file."""
    try:
        variables: dict[str, str] = json.loads(_discovery_file(port).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return {name: value for name, value in variables.items() if value}


def _discovery_file(port: int) -> Path:
    return Path(tempfile.gettempdir()) / f"mbti_ray-{getpass.getuser()}" / f"serve-{port}.json"
