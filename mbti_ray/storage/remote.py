"""Storage by URL: what is kept in a bucket, through pyarrow, as Ray keeps its checkpoints there.

An object appears whole or not at all; nothing is appended to, nothing renamed. What has to grow,
and what needs a real disk, is made in a folder on this machine and put up from there. Knows files
and folders; must not know what a run or a bundle is.
"""

import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from mbti_ray.errors import ConfigError, StorageError, one_line

_FILE = "file"
_BUCKETS = ("s3", "gcs")
# What the answer of a store means to the person who reads it.
_HINTS = {
    "NO_SUCH_BUCKET": "make the bucket, or name one that exists",
    "NETWORK_CONNECTION": "check the network, and AWS_ENDPOINT_URL where it is set",
    "ACCESS_DENIED": "check the credentials and what they allow",
    "INVALID_ACCESS_KEY_ID": "check the credentials (AWS_ACCESS_KEY_ID, a profile, a role)",
    "SIGNATURE_DOES_NOT_MATCH": "check the credentials (AWS_SECRET_ACCESS_KEY)",
}


@dataclass(frozen=True)
class RemotePath:
    """A file or folder that a URL names, with as much of pathlib as runs need.

    Attributes:
        url: As people write it, options after a question mark included.
        path: What the file system calls it.
        filesystem: pyarrow's; it travels to other machines, without credentials that were found
            there: each machine has its own.
    """

    url: str
    path: str
    filesystem: Any = field(compare=False, repr=False)

    @classmethod
    def at(cls, url: str) -> "RemotePath":
        """What a URL names; a region that it does not say is asked for.

        Raises:
            ConfigError: It is no URL of a store, or holds a password.
            StorageError: The region cannot be asked for.
        """
        import pyarrow as pa
        from pyarrow.fs import FileSystem

        if urlsplit(url).password is not None:
            raise ConfigError(
                f"{url.partition('://')[0]}://...: holds a password, which would stand in configs "
                "and logs; give credentials by the environment, a profile or the machine's role"
            )
        try:
            with _reaching(url, let_through=(pa.ArrowInvalid, ImportError, ValueError)):
                filesystem, path = FileSystem.from_uri(url)
        except (pa.ArrowInvalid, ImportError, ValueError) as error:
            raise ConfigError(
                f"{url}: {one_line(error)}; allowed: a folder, s3://, gs://, abfs://, hdfs:// or "
                "fsspec+PROTOCOL:// with the package of that protocol"
            ) from None
        if not path and filesystem.type_name in _BUCKETS:
            raise ConfigError(f"{url}: names no bucket; allowed: {url}BUCKET/PREFIX")
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
        return not _is_nothing(self._facts())

    def is_file(self) -> bool:
        return bool(self._facts().is_file)

    def modified(self) -> float:
        """Seconds since 1970."""
        return (self._facts().mtime_ns or 0) / 1e9

    def files(self) -> list["RemotePath"]:
        """The files that lie directly in it; none where there is nothing."""
        return [self / f.base_name for f in self._listed() if f.is_file]

    def glob(self, pattern: str) -> list["RemotePath"]:
        """The files at FOLDERS/REST, such as ``quick-*/config.yaml``; only FOLDERS has a ``*``."""
        first, _, rest = pattern.partition("/")
        names = [f.base_name for f in self._listed() if not f.is_file]
        places = [self / name / rest for name in sorted(names) if fnmatch.fnmatch(name, first)]
        with _reaching(self.url):
            facts = self.filesystem.get_file_info([place.path for place in places])
        return [place for place, fact in zip(places, facts, strict=True) if fact.is_file]

    def rglob(self, name: str) -> list["RemotePath"]:
        """The files of that name anywhere below."""
        start = len(self.path) + 1
        found = [f.path for f in self._listed(recursive=True) if f.is_file and f.base_name == name]
        return [self / path[start:] for path in found]

    def read_text(self, encoding: str) -> str:
        with _reaching(self.url), self.filesystem.open_input_stream(self.path) as file:
            return str(file.read(), encoding)

    def write_text(self, text: str, encoding: str) -> None:
        self._make_parent()
        with _reaching(self.url), self.filesystem.open_output_stream(self.path) as file:
            file.write(text.encode(encoding))

    def upload(self, source: Path) -> None:
        """Put a file up."""
        self._make_parent()
        self._copy(str(source), self.path, is_up=True)

    def download(self, target: Path) -> None:
        """Bring the file or the whole folder to this machine.

        Raises:
            StorageError: There is nothing, or the disk is full.
        """
        facts = self._facts()
        if _is_nothing(facts):
            raise StorageError(f"{self.url}: there is nothing")
        (target.parent if facts.is_file else target).mkdir(parents=True, exist_ok=True)
        self._copy(self.path, str(target), is_up=False)

    def delete(self) -> None:
        """Delete the file or the whole folder, if there is one."""
        facts = self._facts()
        if _is_nothing(facts):
            return
        with _reaching(self.url):
            delete = self.filesystem.delete_file if facts.is_file else self.filesystem.delete_dir
            delete(self.path)

    def check_writable(self) -> None:
        """Raise StorageError unless something can be written below, before any work is done."""
        probe = self / f".probe-{uuid4().hex}"
        probe._make_parent()
        with _reaching(self.url):
            with self.filesystem.open_output_stream(probe.path) as file:
                file.write(b"")
            self.filesystem.delete_file(probe.path)

    def _facts(self) -> Any:
        with _reaching(self.url):
            return self.filesystem.get_file_info(self.path)

    def _listed(self, *, recursive: bool = False) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with _reaching(self.url):
            return list(self.filesystem.get_file_info(selector))

    def _make_parent(self) -> None:
        # In a bucket a folder is only the beginning of names.
        if self.filesystem.type_name not in _BUCKETS:
            with _reaching(self.url):
                self.filesystem.create_dir(self.parent.path, recursive=True)

    def _copy(self, source: str, target: str, *, is_up: bool) -> None:
        from pyarrow.fs import LocalFileSystem, copy_files

        here, there = LocalFileSystem(), self.filesystem
        ends = (here, there) if is_up else (there, here)
        with _reaching(self.url):
            copy_files(source, target, source_filesystem=ends[0], destination_filesystem=ends[1])


# A folder or file on this machine or in a bucket, with the part of pathlib that both have.
Location = Path | RemotePath


def parse_location(text: str) -> Location:
    """The folder or file that a path or a URL names; ``file://`` is a path.

    Raises:
        ConfigError, StorageError: See `RemotePath.at`.
    """
    if "://" not in text:
        return Path(text).expanduser()
    if urlsplit(text).scheme == _FILE:
        return Path(str(RemotePath.at(text).path))
    return RemotePath.at(text)


def absolute_location(place: Location) -> str:
    """The place as any process understands it, whatever its working directory."""
    return str(place.resolve() if isinstance(place, Path) else place)


@contextmanager
def _reaching(url: str, *, let_through: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """What goes wrong inside becomes one sentence about the URL."""
    try:
        yield
    except Exception as error:
        # Each store's library has exceptions of its own.
        if isinstance(error, let_through):
            raise
        raise StorageError(_sentence(url, error)) from None


def _sentence(url: str, error: Exception) -> str:
    said = re.sub(r" \(Request ID.*?\)", "", one_line(error))
    reason = said.partition("AWS Error ")[2] or said
    hint = next((hint for mark, hint in _HINTS.items() if mark in said), None)
    return f"{url}: {reason[:200]}" + (f"; {hint}" if hint else "")


def _is_nothing(facts: Any) -> bool:
    return bool(facts.type.name == "NotFound")
