"""Working copies of remote folders on this machine, locked while a process uses them.

Must not know what is in them.
"""

import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from mbti_ray.storage.remote import RemotePath

_PREFIX = "mbti_ray-"
# The kernel releases a lock when the process ends, even by a kill.
_LOCK = ".lock"


def working_copy_path(remote: RemotePath) -> Path:
    """A path for a working copy on this machine, different at every call.

    It ends in the path in the bucket; `rewrite_paths` relies on that.
    """
    return Path(tempfile.gettempdir(), _PREFIX + uuid4().hex, remote.path.strip("/"))


@contextmanager
def locked_working_copy(path: Path, remote: RemotePath) -> Iterator[None]:
    """Create the folders for a working copy at `path`, and delete it at the end of the block.

    Leftovers of killed processes are deleted first.
    """
    root = path.parents[len(PurePosixPath(remote.path.strip("/")).parts) - 1]
    _delete_leftovers(root.parent)
    # It gets its name once it is locked, so that nobody takes it for a leftover.
    temporary = root.with_name(f"{root.name}.new")
    temporary.mkdir(mode=0o700)
    with (temporary / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        temporary.rename(root)
        try:
            yield
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _delete_leftovers(folder: Path) -> None:
    for root in folder.glob(f"{_PREFIX}*"):
        if not re.fullmatch(f"{_PREFIX}[0-9a-f]{{32}}", root.name):
            continue
        # Not ours, deleted already, or in use.
        with suppress(OSError), (root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(root, ignore_errors=True)


def rewrite_paths(text: str, remote: RemotePath) -> str:
    """A message with the URL in place of the paths of working copies."""
    suffix = re.escape(remote.path.strip("/"))
    base = remote.url.partition("?")[0].removesuffix("/")
    return re.sub(rf"\S*/{_PREFIX}[0-9a-f]{{32}}/{suffix}", lambda _: base, text)
