"""An S3 server, a bucket of each test, a machine of its own for the process, files of settings."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buckets import remote
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import Server, s3_server

from mbti_ray.storage.remote import RemotePath


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the temporary files and the cache of this process."""
    place = tmp_path / "machine"
    (place / "tmp").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    return place


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> RemotePath:
    """A prefix of the test's own."""
    return remote(f"{server.url}/{request.node.name.translate(dict.fromkeys(b'[]/:'))}")


@pytest.fixture(params=["s3", "memory"])
def place(request: pytest.FixtureRequest, server: Server) -> Iterator[RemotePath]:
    name = request.node.name.translate(dict.fromkeys(b"[]/:"))
    yield remote(f"{server.url}/{name}" if request.param == "s3" else f"fsspec+memory://x/{name}")
    MemoryFileSystem.store.clear()


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Writes a YAML file and gives its path."""

    def write(text: str, name: str = "my.yaml") -> str:
        (tmp_path / name).write_text(text, "utf-8")
        return str(tmp_path / name)

    return write
