"""The doctor on a real local Ray: all in order, and each fault named before anything is taken."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from mbti_ray.checks.machine import inspect_machine
from mbti_ray.config import load_run, load_study
from mbti_ray.doctor import main as doctor
from mbti_ray.errors import ClusterError

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def wrong_of(verdicts):
    return [v for v in verdicts if v.state == "wrong"]


def test_a_ray_in_order_has_nothing_wrong_and_every_check_speaks(tmp_path):
    from mbti_ray.on_ray.cluster.preflight import check_cluster

    verdicts = check_cluster(load_run("quick", [f"storage={tmp_path / 'runs'}"]))
    assert wrong_of(verdicts) == []
    assert {v.check for v in verdicts} == {
        *("cluster", "versions", "storage", "disk", "resources", "gpu", "encoder"),
        *("token", "clock", "dashboard", "ports"),
    }
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_is_wrong(tmp_path):
    from mbti_ray.on_ray.cluster.preflight import check_cluster

    (tmp_path / "file").write_text("")
    verdicts = check_cluster(load_run("quick", [f"storage={tmp_path / 'file' / 'runs'}"]))
    (verdict,) = wrong_of(verdicts)
    assert verdict.check == "storage"
    assert "cannot be written to here (Not a directory)" in verdict.message


def test_more_workers_than_there_is_room_for_are_wrong(tmp_path):
    from mbti_ray.on_ray.cluster.preflight import check_cluster

    overrides = [f"storage={tmp_path}", "scaling.workers=3"]
    for config in (load_run("quick", overrides), load_study(None, overrides)):
        (verdict,) = wrong_of(check_cluster(config))
        assert verdict.check == "resources"
        assert "scaling.workers=3: a worker takes 1 CPU" in verdict.message
        assert verdict.remedy == "lower scaling.workers"


def test_what_the_autoscaler_may_add_makes_room_and_is_waited_for(tmp_path):
    from mbti_ray.on_ray.cluster.resources import Resources, judge_resources, run_resources

    there, addable = [{"CPU": 2.0}], [{"CPU": 8.0, "GPU": 1.0}] * 2
    config = load_run("quick", ["scaling.workers=2", "scaling.use_gpu=true"])
    verdict, each = judge_resources(config, there, [])
    assert (verdict.state, each) == ("wrong", None)
    verdict, each = judge_resources(config, there, addable)
    assert (verdict.state, each) == ("warning", Resources(8, 1))
    assert verdict.message == (
        "only with machines that the autoscaler has yet to add: 2 workers of 8 CPUs and 1 GPU"
    )
    # Reckoned as the run will: it waits for the machines with GPUs, and does not take the CPUs.
    verdict, each = judge_resources(load_run("quick"), there, addable)
    assert (verdict.state, each) == ("warning", Resources(8, 1))
    assert run_resources(load_run("quick"), [*there, *addable]) == each
    study = load_study(None, ["scaling.use_gpu=false"])
    verdict, each = judge_resources(study, there, addable)
    assert (verdict.state, each) == ("ok", Resources(1, 0))
    assert verdict.message.startswith("2 trials at once, 1 worker each of 1 CPU; 18 trials")


@pytest.mark.parametrize(
    ("cpus", "gpus", "addresses", "hears", "said"),
    [
        (1, 0, ("10.0.0.2", "10.0.0.3"), "127.0.1.1", ["wrong"]),
        (1, 0, ("10.0.0.2", "10.0.0.3"), "10.0.0.2", ["ok"]),
        # All on one node, two nodes of one machine, and NCCL, which finds its way by itself.
        (2, 0, ("10.0.0.2", "10.0.0.3"), "127.0.1.1", []),
        (1, 0, ("10.0.0.2", "10.0.0.2"), "127.0.1.1", []),
        (1, 1, ("10.0.0.2", "10.0.0.3"), "127.0.1.1", []),
    ],
)
def test_two_workers_that_would_wait_for_each_other_for_ever_are_said_to(
    cpus, gpus, addresses, hears, said, tmp_path
):
    from mbti_ray.on_ray.cluster.preflight import judge_network
    from mbti_ray.on_ray.cluster.resources import Resources

    config = load_run("quick", ["scaling.workers=2"])
    resources = {"CPU": cpus, "GPU": gpus}
    nodes = {
        str(n): {"Resources": resources, "NodeManagerAddress": address}
        for n, address in enumerate(addresses)
    }
    machine = replace(inspect_machine("tiny", tmp_path), gloo_address=hears)
    machines = dict.fromkeys(nodes, machine)
    verdicts = judge_network(config, nodes, machines, Resources(1, gpus))
    assert [v.state for v in verdicts] == said


def test_before_a_run_begins_all_is_well_or_the_first_wrong_line_is_raised(tmp_path):
    from mbti_ray.on_ray.cluster.preflight import check_before_run
    from mbti_ray.on_ray.cluster.resources import cluster_nodes, run_resources

    warned: list[str] = []
    config = load_run("quick")
    nodes = check_before_run(config, tmp_path / "runs", warn=warned.append)
    assert run_resources(config, nodes) == run_resources(config, cluster_nodes())
    assert not [line for line in warned if line.startswith(("resources", "storage"))]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClusterError, match=r"^resources: scaling.workers=3: a worker takes 1 CPU"):
        check_before_run(load_run("quick", ["scaling.workers=3"]), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match=r"^storage: .*cannot be written to here") as caught:
        check_before_run(load_run("quick", ["scaling.workers=3"]), tmp_path / "file" / "runs")
    assert "\n" not in str(caught.value)


def test_of_two_nodes_one_answers_and_one_that_is_gone_is_said_not_to(tmp_path):
    import ray

    from mbti_ray.checks.storage import StorageMarkers
    from mbti_ray.on_ray.cluster.preflight import _judge_essentials, _live_nodes, query_nodes

    nodes = _live_nodes()
    gone = {"Resources": {"CPU": 1.0}, "NodeManagerAddress": "10.0.0.9", "NodeID": "0" * 56}
    with StorageMarkers(tmp_path) as markers:
        answers = query_nodes(
            load_run("quick"), nodes | {"10.0.0.9": gone}, markers, gpu_within_s=0.0
        )
        ((name, machine),) = answers.machines.items()
        assert [name] == list(nodes)
        assert machine.storage_fault is None
        assert machine.versions["ray"] == ray.__version__
        assert markers.find_missing([name]) == set()
        verdict = _judge_essentials(load_run("quick"), answers, markers)[0]
    assert (verdict.check, verdict.state) == ("nodes", "wrong")
    assert verdict.message.startswith("10.0.0.9: ")
    assert verdict.remedy


def test_the_command_connects_to_the_ray_that_is_named_and_exits_with_what_it_found(tmp_path):
    import ray

    command = [sys.executable, "-m", "mbti_ray.doctor", "--cluster", "--json", "quick"]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert wrong_in(done.stdout) == []
    assert list(tmp_path.iterdir()) == []


def test_a_ray_of_another_version_is_said_to_be_one_in_a_line():
    import ray

    connect = (
        "import ray; ray.__version__ = '2.59.0'\n"
        "from mbti_ray.on_ray.cluster.resources import ray_connection\n"
        "with ray_connection(): pass\n"
    )
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", connect],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_ADDRESS": address},
        check=False,
    )
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"mbti_ray.errors.ClusterError: RAY_ADDRESS={address}: Version mismatch")
    assert "2.59.0" in said


def test_the_command_exits_with_2_where_something_is_wrong(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert doctor(["--cluster", "--json", "quick", "scaling.workers=3"]) == 2
    assert wrong_in(capfd.readouterr().out) == ["resources"]
    assert list(tmp_path.iterdir()) == []


def wrong_in(output):
    """The checks that went wrong, of a command's output."""
    checks = json.loads(output.splitlines()[-1])["checks"]
    return [check["check"] for check in checks if check["state"] == "wrong"]
