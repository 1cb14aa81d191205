"""The command of the doctor on this machine, without a Ray."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mbti_ray.__main__ import main
from mbti_ray.errors import ClusterError
from service_command import free_port

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with nothing of a cluster in the environment."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def report(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_preset_quick_can_run_on_this_machine_and_nothing_is_left(place, capsys):
    assert main(["doctor", "--json"]) == 0
    said = report(capsys)
    assert said["wrong"] == 0
    assert {check["check"] for check in said["checks"]} == {
        *("versions", "token", "storage", "disk", "resources", "gpu", "encoder", "ports")
    }
    assert list(place.iterdir()) == []
    assert "ray" in sys.modules
    assert not sys.modules["ray"].is_initialized()


@pytest.mark.parametrize(
    ("argv", "check", "says"),
    [
        (["quick", "scaling.workers=500"], "resources", "scaling.workers=500: a worker takes"),
        (["quick", "storage=file/runs"], "storage", "cannot be written to here"),
        (["quick", "model.encoder=./none"], "encoder", "no such folder"),
        (["study.yaml", "scaling.workers=500"], "resources", "scaling.workers=500: a worker takes"),
    ],
)
def test_what_cannot_run_exits_with_2_and_a_remedy(argv, check, says, place, capsys):
    study = yaml.safe_dump({"preset": "quick", "search": {"optim.lr": {"low": 1e-3, "high": 1e-2}}})
    (place / "study.yaml").write_text(study)
    (place / "file").write_text("")
    assert main(["doctor", "--json", *argv]) == 2
    said = report(capsys)
    assert said["wrong"] == 1
    (wrong,) = [c for c in said["checks"] if c["state"] == "wrong"]
    assert wrong["check"] == check
    assert says in wrong["found"]
    assert wrong["remedy"]


def test_a_source_that_is_not_there_is_refused_as_train_refuses_it(place, capsys):
    assert main(["doctor", "quick", "data.source=none.csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.csv" in line


def test_a_study_is_known_by_its_file_or_by_its_arguments(place, capsys):
    assert main(["doctor", "--json", str(ROOT / "tune_configs/quick.yaml")]) == 0
    assert "at once, 1 worker each" in str(report(capsys))
    assert main(["doctor", "--json", "study.trials=3"]) == 0
    assert "at once, 1 worker each" in str(report(capsys))
    assert main(["doctor", "--json", "quick"]) == 0
    assert "at once" not in str(report(capsys))


def test_what_is_no_address_is_said_in_a_line(place, capsys, monkeypatch):
    from mbti_ray.on_ray.cluster.resources import ray_connection

    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    assert main(["doctor", "--json", "--cluster"]) == 2
    (check,) = report(capsys)["checks"]
    assert "nonsense" in check["found"]
    assert check["remedy"] == "correct RAY_ADDRESS, or start Ray there"
    with pytest.raises(ClusterError, match=r"^RAY_ADDRESS=nonsense: "), ray_connection():
        pass


def test_a_ray_that_is_not_there_is_said_at_once(place, capsys, monkeypatch):
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert main(["doctor", "--cluster", "--json"]) == 2
    (check,) = report(capsys)["checks"]
    assert check["check"] == "cluster"
    assert "no Ray answers at" in check["found"]
    assert "RAY_ADDRESS" in check["remedy"]


def test_what_listens_there_and_is_no_ray_is_said_to_be_none(place, capsys, monkeypatch):
    from mbti_ray.on_ray.cluster import connectivity

    monkeypatch.setattr(connectivity, "_TIMEOUT_S", 0.5)
    # Ray itself takes the machine's own address for 127.0.0.1.
    with socket.create_server(("", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        assert main(["doctor", "--cluster", "--json"]) == 2
        (check,) = report(capsys)["checks"]
    assert "accepts connections, but no Ray answers" in check["found"]


def test_the_table_of_the_command_shows_each_state_and_what_to_change(place):
    command = [sys.executable, "-m", "mbti_ray.doctor", "scaling.workers=500"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("wrong") and "resources" in line for line in lines)
    assert any(line.startswith("ok") and "storage" in line for line in lines)
    assert "lower" in done.stdout
    assert re.fullmatch(r"\d ok, \d warning, 1 wrong, in [0-9.]+ s", lines[-1])
