"""Working copies of remote folders on this machine, locked while a process uses them."""

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from mbti_ray.storage.remote import RemotePath

_MARK = "mbti_ray-"
# The kernel lets go of a lock when its process ends, however it does.
_LOCK = ".held"


def working_copy_path(remote: RemotePath) -> Path:
    """Where on this machine a working copy of it may be made; nobody else is given the same.

    The end of it is the path in the store, so `rewrite_paths` knows what it stands for.
    """
    return Path(tempfile.gettempdir(), _MARK + uuid4().hex, remote.path.strip("/"))


@contextmanager
def locked_working_copy(path: Path, remote: RemotePath) -> Iterator[None]:
    """Room for a working copy at `working_copy_path`, as long as this process needs it.

    What a process that was killed has left is deleted by the next one that makes room.
    """
    root = path.parents[len(PurePosixPath(remote.path.strip("/")).parts) - 1]
    _sweep(root.parent)
    # Under its name only once it is locked, so that nobody takes it for an old one.
    aside = root.with_name(f"{root.name}.new")
    aside.mkdir(mode=0o700)
    with (aside / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aside.rename(root)
        try:
            yield
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _sweep(folder: Path) -> None:
    for root in folder.glob(f"{_MARK}*"):
        if not re.fullmatch(f"{_MARK}[0-9a-f]{{32}}", root.name):
            continue
        # Not ours, gone already, or in use.
        with suppress(OSError), (root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)


def rewrite_paths(text: str, remote: RemotePath) -> str:
    """A message as people should read it: working copies have the names of what they are of."""
    inside = re.escape(remote.path.strip("/"))
    base = remote.url.partition("?")[0].removesuffix("/")
    return re.sub(rf"\S*/{_MARK}[0-9a-f]{{32}}/{inside}", lambda _: base, text)
