"""Folders of this user alone, and in them working copies of remote folders, locked while in use."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from mbti_ray.errors import StorageError, one_line
from mbti_ray.storage.atomic import delete_leftovers, try_lock
from mbti_ray.storage.remote import RemotePath

_FOLDER = "mbti_ray-"


def private_folder(path: Path) -> Path:
    """Makes a folder with mode 0700, or checks that an existing one is private to this user.

    Raises StorageError for a link, a file, or a folder that another user owns or can access.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # lstat: a symlink is not followed.
        found = path.lstat()
    except OSError as error:
        raise StorageError(f"{path}: cannot be made ({one_line(error)})") from None
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{path}: must be a folder, not a link or file; delete it")
    if found.st_uid != os.geteuid():
        raise StorageError(f"{path}: belongs to user id {found.st_uid}; allowed: {os.geteuid()}")
    if found.st_mode & 0o077:
        raise StorageError(f"{path}: is accessible to other users; run `chmod 700 {path}`")
    return path


def working_copy_path(remote: RemotePath) -> Path:
    """A path for a working copy on this machine, different at every call.

    It ends in the path in the bucket; `rewrite_paths` relies on that.
    """
    folder = Path(tempfile.gettempdir(), f"{_FOLDER}{os.geteuid()}")
    return folder / uuid4().hex / remote.path.strip("/")


@contextmanager
def locked_working_copy(path: Path, remote: RemotePath) -> Iterator[None]:
    """Create the folders for a working copy at `path`, and delete it at the end of the block.

    Leftovers of killed processes are deleted first. Raises StorageError where the folder of all
    working copies is not this user's alone.
    """
    root = path.parents[len(PurePosixPath(remote.path.strip("/")).parts) - 1]
    try:
        folder = private_folder(root.parent)
    except StorageError as error:
        raise StorageError(f"{error}; or set TMPDIR to another folder") from None
    delete_leftovers(folder, "*")
    root.mkdir(mode=0o700)
    try:
        with try_lock(root):
            yield
    finally:
        shutil.rmtree(root, ignore_errors=True)


def rewrite_paths(text: str, remote: RemotePath) -> str:
    """A message with the URL in place of the paths of working copies."""
    suffix = re.escape(remote.path.strip("/"))
    base = remote.url.partition("?")[0].removesuffix("/")
    return re.sub(rf"\S*/{_FOLDER}\d+/[0-9a-f]{{32}}/{suffix}", lambda _: base, text)
