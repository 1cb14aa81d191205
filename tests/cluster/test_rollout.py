"""The service as a command with HAProxy: a roll-out by another one under load, and its end."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbti_ray.inference.manifest import load_manifest
from service_command import Load, Service, served

pytestmark = pytest.mark.cluster

JSON_TYPE = {"Content-Type": "application/json"}

# Not the one of the tests, which may lie in the home of whoever runs them.
PYTHON = shutil.which("python3", path="/usr/bin:/bin")


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(bundle, tmp_path_factory.mktemp("service")) as running:
        yield running


def test_a_bundle_is_rolled_out_and_back_under_load_and_no_request_fails(
    service: Service, bundle: Path, other_bundle: Path
) -> None:
    first, second = load_manifest(bundle).id, load_manifest(other_bundle).id
    with Load(service.url, pause_s=0.15).running() as load:
        load.wait_for(20)
        assert set(load.bundles) == {first}
        done = service.command(str(other_bundle), "--roll-out")
        assert done.returncode == 0, done.stderr
        assert f"now serving {other_bundle}" in done.stdout
        load.bundles.clear()
        load.wait_for(20)
        # A request may have been in flight since before the switch.
        assert load.bundles[first] <= load.clients

        back = service.command("--roll-back")
        assert back.returncode == 0, back.stderr
        load.bundles.clear()
        load.wait_for(20)
        assert load.bundles[second] <= load.clients
    assert set(load.statuses) == {200}


def test_haproxy_keeps_its_files_where_no_other_user_gets_at_them(service: Service) -> None:
    config = service.haproxy_config()
    # Ray makes a folder for each node inside.
    private = config.parent.parent
    assert private.stat().st_mode & 0o777 == 0o700
    text = config.read_text("utf-8")
    assert "timeout client 35s" in text
    # Whatever path it names: the configuration, the sockets, the server states.
    paths = re.findall(r"(?:socket|log|base|file|errorfile \d+) (/\S+)", text)
    assert len(paths) >= 5
    assert {Path(path).is_relative_to(private) for path in paths} == {True}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as a second user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
@pytest.mark.skipif(PYTHON is None, reason="needs a python3 that any user may run")
def test_another_user_cannot_redirect_requests_by_the_admin_socket(service: Service) -> None:
    admin = service.haproxy_config().with_name("admin.sock")
    attack = (
        "import socket\n"
        "with socket.socket(socket.AF_UNIX) as admin:\n"
        f"    admin.connect({str(admin)!r})\n"
        "    admin.sendall(b'show stat\\n')\n"
        "    print(admin.recv(100))\n"
    )
    # As its own user the attack works, so the folder is what stops the other one.
    own = subprocess.run([PYTHON, "-c", attack], capture_output=True, text=True, check=True)
    assert "pxname" in own.stdout
    other = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"]
    done = subprocess.run(
        [*other, PYTHON, "-c", attack], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


def test_the_command_serves_until_sigterm_and_leaves_no_process(service: Service) -> None:
    with service.client() as client:
        assert client.post("/predict", json={"inputs": "a"}).status_code == 200
        big = client.post("/predict", content=b"a" * 5_000_000, headers=JSON_TYPE)
        assert (big.status_code, big.json()["error"]["code"]) == (413, "too_large")
    folder = service.haproxy_config().parent.parent
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(90) == 143, service.log.read_text("utf-8")
    assert not folder.exists()
    with pytest.raises(AssertionError, match="no HAProxy"):
        service.haproxy_config()
