"""Rolling out a bundle to a running service, by another command, under load."""

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

# Not the one of the tests, which may lie in the home of whoever runs them.
PYTHON = shutil.which("python3", path="/usr/bin:/bin")


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(bundle, tmp_path_factory.mktemp("service")) as running:
        yield running


def test_a_bundle_is_rolled_out_and_back_under_load_and_no_request_fails(
    service: Service,
    bundle: Path,
    other_bundle: Path,
    damaged_bundle: Path,
    worse_bundle: Path,
    new_people: Path,
) -> None:
    first, second = load_manifest(bundle).id, load_manifest(other_bundle).id
    with Load(service.url).running() as load:
        load.wait_for(20)
        assert set(load.bundles) == {first}
        done = service.command(str(other_bundle), "--roll-out")
        assert done.returncode == 0, done.stderr
        assert f"now serving {other_bundle}" in done.stdout
        load.bundles.clear()
        load.wait_for(20)
        # A request may have been in flight since before the switch.
        assert load.bundles[first] <= load.clients

        refused = service.command(str(damaged_bundle), "--roll-out")
        assert refused.returncode == 2
        assert "does not reproduce its golden logits" in refused.stderr
        load.bundles.clear()
        load.wait_for(20)
        assert set(load.bundles) == {second}

        worse = service.command(str(worse_bundle), "--roll-out", "--gate", str(new_people))
        assert worse.returncode == 2
        assert f"is worse than {second}, which is served, on 60 people" in worse.stderr

        back = service.command("--roll-back")
        assert back.returncode == 0, back.stderr
        load.bundles.clear()
        load.wait_for(20)
        assert load.bundles[second] <= load.clients
    assert set(load.statuses) == {200}


def test_a_canary_is_served_and_a_header_selects_it(
    service: Service, bundle: Path, other_bundle: Path
) -> None:
    words = [str(bundle), "--roll-out", f"serve.beside={other_bundle}", "serve.beside_share=0.5"]
    done = service.command(*words)
    assert done.returncode == 0, done.stderr
    second = load_manifest(other_bundle).id
    with service.client() as client:
        canary = client.get("/info").json()["beside"]
        assert (canary["bundle_id"], canary["share"]) == (second, 0.5)
        answers = [client.post("/predict", json={"inputs": f"text {n}"}) for n in range(40)]
        assert {a.headers["x-bundle-id"] for a in answers} == {second, load_manifest(bundle).id}
        selected = {"X-Bundle-Id": second}
        chosen = client.post("/predict", json={"inputs": "a"}, headers=selected)
        assert chosen.headers["x-bundle-id"] == second
        unknown = client.post("/predict", json={"inputs": "a"}, headers={"X-Bundle-Id": "none"})
        assert unknown.status_code == 404


def test_a_lost_replica_is_restarted_with_the_bundle_rolled_out(
    service: Service, other_bundle: Path
) -> None:
    assert service.command(str(other_bundle), "--roll-out").returncode == 0
    (replica,) = service.replicas()
    os.kill(replica, signal.SIGKILL)
    load = Load(service.url, clients=1)
    with load.running():
        while load.statuses[200] < 5:
            load.wait_for(1)
    assert set(load.bundles) == {load_manifest(other_bundle).id}
    assert service.replicas() != [replica]


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


def test_settings_fixed_at_start_are_refused(service: Service, bundle: Path) -> None:
    refused = service.command(str(bundle), "--roll-out", "serve.replicas=2")
    assert refused.returncode == 2
    assert "cannot change while the service runs" in refused.stderr
    nowhere = service.command("--roll-back", "serve.beside_share=0.5")
    assert nowhere.returncode == 2
