"""The discovery file: only its user can plant one, and it carries two variables only."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mbti_ray.errors import ClusterError, StorageError
from mbti_ray.serving.discovery import announce_service, read_ray_environment
from mbti_ray.storage.working_copy import private_folder

pytestmark = pytest.mark.unit

PORT = 8123


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return tmp_path / "mbti_ray"


def test_a_service_is_found_while_it_runs() -> None:
    assert read_ray_environment(PORT) is None
    with announce_service(PORT, "127.0.0.1:6379"):
        found = {"RAY_ADDRESS": "127.0.0.1:6379", "RAY_AUTH_MODE": "token"}
        assert read_ray_environment(PORT) == found
        assert read_ray_environment(PORT + 1) is None
    assert read_ray_environment(PORT) is None


def test_the_folder_is_closed_to_others_whatever_the_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        with announce_service(PORT, "a"):
            assert (cache / "services").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_other_variables_in_the_file_are_ignored(cache: Path) -> None:
    with announce_service(PORT, "a"):
        (file,) = (cache / "services").glob("*.json")
        planted = {"PYTHONPATH": "/evil", "LD_PRELOAD": "/evil.so", "RAY_ADDRESS": "b"}
        file.write_text(json.dumps(planted | {"RAY_AUTH_MODE": ""}))
        assert read_ray_environment(PORT) == {"RAY_ADDRESS": "b"}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"RAY_ADDRESS"', "\udcff"])
def test_a_damaged_file_is_refused_in_one_sentence(cache: Path, content: str) -> None:
    with announce_service(PORT, "a"):
        (file,) = (cache / "services").glob("*.json")
        file.write_text(content, "utf-8", "surrogateescape")
        with pytest.raises(ClusterError, match="is damaged; delete it"):
            read_ray_environment(PORT)


def test_a_link_in_place_of_the_file_is_neither_read_nor_written_through(
    cache: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text(json.dumps({"RAY_ADDRESS": "evil", "RAY_AUTH_MODE": ""}))
    before = victim.read_text()
    with announce_service(PORT, "a"):
        (file,) = (cache / "services").glob("*.json")
    file.symlink_to(victim)
    with pytest.raises(ClusterError, match="is damaged"):
        read_ray_environment(PORT)
    with announce_service(PORT, "a"):
        assert read_ray_environment(PORT) == {"RAY_ADDRESS": "a", "RAY_AUTH_MODE": "token"}
    assert victim.read_text() == before


def test_a_link_in_place_of_the_folder_is_not_written_to_and_the_service_runs(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    cache.mkdir()
    (cache / "services").symlink_to(target)
    with announce_service(PORT, "a"):
        assert list(target.iterdir()) == []
    assert "not a link or file; delete it; until then --roll-out needs RAY_ADDRESS=a" in caplog.text
    with pytest.raises(StorageError):
        read_ray_environment(PORT)


def test_a_folder_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StorageError, match=f"run `chmod 700 {folder}`"):
        private_folder(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as a second user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
def test_what_another_user_has_planted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack of the review: a folder at the predictable place, made by somebody else first."""
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o777)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        _attack(Path(shared, "mbti_ray", "services"))


def _attack(root: Path) -> None:
    plant = f"mkdir -p -m 700 {root} && chmod 755 {root.parent}"
    other = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]
    subprocess.run([*other, "sh", "-c", plant], check=True)
    with pytest.raises(StorageError, match="belongs to user id 4321; allowed: 0"):
        read_ray_environment(PORT)
    # And whom they call themselves is not asked.
    done = subprocess.run(
        [sys.executable, "-m", "mbti_ray.serve", "--roll-back", f"serve.port={PORT}"],
        env={**os.environ, "LOGNAME": "somebody", "USER": "somebody"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "belongs to user id 4321" in done.stderr
    assert "Traceback" not in done.stderr
