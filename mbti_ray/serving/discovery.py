"""Where a service of this machine leaves word of the Ray it runs in, so that commands find it.

A file for each port, in a folder that only its user may read. Knows nothing of Ray but the names
of the environment variables that it reads.
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
def found_by(port: int, address: str) -> Iterator[None]:
    """Other commands find a service by its port, until the end of the block.

    Args:
        address: Of the Ray that it runs in.
    """
    file = _file(port)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    # A local Ray asks for its token although nobody said so; who connects to one has to say so.
    word = {"RAY_ADDRESS": address, _AUTH_MODE: os.environ.get(_AUTH_MODE, "")}
    file.write_text(json.dumps(word), "utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def environment_of(port: int) -> dict[str, str] | None:
    """The environment in which Ray connects to the service at a port; None: nobody left word."""
    try:
        word: dict[str, str] = json.loads(_file(port).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return {name: value for name, value in word.items() if value}


def _file(port: int) -> Path:
    return Path(tempfile.gettempdir()) / f"mbti_ray-{getpass.getuser()}" / f"serve-{port}.json"
