"""Files and folders in a bucket, by URL, through pyarrow: the library that Ray stores with, too.

An object appears whole or not at all; none is appended to or renamed. Files that grow, or that
need a real disk, are written to a folder on this machine and uploaded from there. Must not know
what a run or a bundle is.
"""

import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from mbti_ray.errors import ConfigError, StorageError, mask_secrets, one_line

_FILE = "file"
_BUCKETS = ("s3", "gcs")
# What to do about an error of a store.
_HINTS = {
    "NO_SUCH_BUCKET": "create the bucket, or name one that exists",
    "NETWORK_CONNECTION": "check the network, and AWS_ENDPOINT_URL where it is set",
    "ACCESS_DENIED": "check the credentials and their permissions",
    "INVALID_ACCESS_KEY_ID": "check the credentials (AWS_ACCESS_KEY_ID, a profile, a role)",
    "SIGNATURE_DOES_NOT_MATCH": "check the credentials (AWS_SECRET_ACCESS_KEY)",
}


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in a bucket, with the part of pathlib that runs need.

    `url` is as the user writes it, with the options after a question mark; the filesystem is
    pyarrow's, pickled without the credentials, which each machine finds itself.
    """

    url: str
    path: str
    filesystem: Any = field(compare=False, repr=False)

    @classmethod
    def at(cls, url: str) -> "RemotePath":
        """The file or folder at a URL; a region that is not in it is looked up.

        Raises ConfigError if it is not the URL of a store or contains a password, StorageError if
        the region cannot be looked up.
        """
        import pyarrow as pa
        from pyarrow.fs import FileSystem

        if mask_secrets(url) != url:
            raise ConfigError(
                f"{mask_secrets(url)}: contains a password or key, which would end up in configs "
                "and logs; pass credentials by the environment, a profile or the machine's role"
            )
        try:
            with _storage_errors(url, passes=(pa.ArrowInvalid, ImportError, ValueError)):
                filesystem, path = FileSystem.from_uri(url)
        except (pa.ArrowInvalid, ImportError, ValueError) as error:
            raise ConfigError(
                f"{url}: {one_line(error)}; allowed: a folder, s3://, gs://, abfs://, hdfs:// or "
                "fsspec+PROTOCOL:// with the package of that protocol"
            ) from None
        if not path and filesystem.type_name in _BUCKETS:
            raise ConfigError(f"{url}: has no bucket; allowed: {url}BUCKET/PREFIX")
        return cls(url, path.rstrip("/"), filesystem)

    def __truediv__(self, name: str) -> "RemotePath":
        base, mark, options = self.url.partition("?")
        url = f"{base.removesuffix('/')}/{name}{mark}{options}"
        return RemotePath(url, f"{self.path}/{name}", self.filesystem)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> "RemotePath":
        base, mark, options = self.url.partition("?")
        url = f"{base.removesuffix('/').rpartition('/')[0]}{mark}{options}"
        return RemotePath(url, self.path.rpartition("/")[0], self.filesystem)

    def exists(self) -> bool:
        return not _is_missing(self._info())

    def is_file(self) -> bool:
        return bool(self._info().is_file)

    def modified(self) -> float:
        """Unix time, in seconds."""
        return (self._info().mtime_ns or 0) / 1e9

    def files(self) -> list["RemotePath"]:
        """The files directly inside; an empty list if it does not exist."""
        return [self / f.base_name for f in self._list() if f.is_file]

    def glob(self, pattern: str) -> list["RemotePath"]:
        """The files matching FOLDER/REST, such as ``quick-*/config.yaml``; ``*`` only in FOLDER."""
        first, _, rest = pattern.partition("/")
        names = [f.base_name for f in self._list() if not f.is_file]
        paths = [self / name / rest for name in sorted(names) if fnmatch.fnmatch(name, first)]
        with _storage_errors(self.url):
            infos = self.filesystem.get_file_info([path.path for path in paths])
        return [path for path, info in zip(paths, infos, strict=True) if info.is_file]

    def rglob(self, pattern: str) -> list["RemotePath"]:
        """The files whose names match, at any depth."""
        start = len(self.path) + 1
        files = [f for f in self._list(recursive=True) if f.is_file]
        return [self / f.path[start:] for f in files if fnmatch.fnmatch(f.base_name, pattern)]

    def read_text(self, encoding: str) -> str:
        with _storage_errors(self.url), self.filesystem.open_input_stream(self.path) as file:
            return str(file.read(), encoding)

    def write_text(self, text: str, encoding: str) -> None:
        self._make_parent()
        with _storage_errors(self.url), self.filesystem.open_output_stream(self.path) as file:
            file.write(text.encode(encoding))

    def upload(self, source: Path) -> None:
        """Upload a file to this path."""
        self._make_parent()
        self._copy(str(source), self.path, is_upload=True)

    def download(self, target: Path) -> None:
        """Download the file or the whole folder; a StorageError if it does not exist."""
        info = self._info()
        if _is_missing(info):
            raise StorageError(f"{self.url}: does not exist")
        (target.parent if info.is_file else target).mkdir(parents=True, exist_ok=True)
        self._copy(self.path, str(target), is_upload=False)

    def delete(self) -> None:
        """Delete the file or the whole folder, if it exists."""
        info = self._info()
        if _is_missing(info):
            return
        with _storage_errors(self.url):
            delete = self.filesystem.delete_file if info.is_file else self.filesystem.delete_dir
            delete(self.path)

    def _info(self) -> Any:
        with _storage_errors(self.url):
            return self.filesystem.get_file_info(self.path)

    def _list(self, *, recursive: bool = False) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with _storage_errors(self.url):
            return list(self.filesystem.get_file_info(selector))

    def _make_parent(self) -> None:
        # In a bucket a folder is only a prefix of names.
        if self.filesystem.type_name not in _BUCKETS:
            with _storage_errors(self.url):
                self.filesystem.create_dir(self.parent.path, recursive=True)

    def _copy(self, source: str, target: str, *, is_upload: bool) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        local, remote = LocalFileSystem(), self.filesystem
        ends = (local, remote) if is_upload else (remote, local)
        with _storage_errors(self.url):
            copy_files(source, target, source_filesystem=ends[0], destination_filesystem=ends[1])


# A folder or file on this machine or in a bucket, with the part of pathlib that both have.
Location = Path | RemotePath


def parse_location(text: str) -> Location:
    """The path or URL as a location; ``file://`` is a path. Errors as `RemotePath.at`."""
    if "://" not in text:
        return Path(text).expanduser()
    if urlsplit(text).scheme == _FILE:
        return Path(str(RemotePath.at(text).path))
    return RemotePath.at(text)


def absolute_location(location: Location) -> str:
    """The location as text that does not depend on the working directory."""
    return str(location.resolve() if isinstance(location, Path) else location)


@contextmanager
def _storage_errors(url: str, *, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns the exceptions of the block into one sentence about the URL."""
    try:
        yield
    except Exception as error:
        # The library of each store has its own exceptions.
        if isinstance(error, passes):
            raise
        message = re.sub(r" \(Request ID.*?\)", "", one_line(error))
        reason = message.partition("AWS Error ")[2] or message
        hint = next((f"; {hint}" for code, hint in _HINTS.items() if code in message), "")
        raise StorageError(f"{url}: {reason[:200]}{hint}") from None


def _is_missing(info: Any) -> bool:
    return bool(info.type.name == "NotFound")
