"""Folders that only this user can access, for files that others must neither read nor plant."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from mbti_ray.errors import StorageError, one_line


def private_folder(path: Path) -> Path:
    """Makes a folder with mode 0700, or checks that an existing one is private to this user.

    Raises StorageError for a symlink or file, or a folder that others own or can access.
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
