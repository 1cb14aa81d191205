"""What `ray up` was told and what came of it, read from the head's log as Ray writes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mbti_ray.checks.autoscaler import (
    find_autoscaler,
    judge_nodes,
    parse_autoscaler,
    parse_join_failures,
)

pytestmark = pytest.mark.unit

REFUSED = """\
2026-11-24 23:06:42,849\tINFO log_timer.py:25 -- NodeUpdater: 10.0.0.3: Setup commands succeeded [LogTimer=22ms]
2026-11-24 23:06:42,849\tINFO updater.py:509 -- \x1b[2m[7/7]\x1b[22m \x1b[36mStarting the Ray runtime\x1b[39m
\x1b[37mLocal node IP\x1b[39m: \x1b[1m10.0.0.3\x1b[22m
[2026-11-24 23:06:52,626 W 61 61] gcs_client.cc:210: Failed to get cluster ID from GCS server: Unauthenticated: RPC error: InvalidAuthToken: Authentication token is missing or incorrect
RuntimeError: Failed to connect to GCS. Last connection error: Traceback (most recent call last):
\x1b[0m2026-11-24 23:07:14,996\tINFO log_timer.py:25 -- NodeUpdater: 10.0.0.3: Ray start commands failed [LogTimer=32147ms]
2026-11-24 23:07:14,996\tINFO log_timer.py:25 -- NodeUpdater: 10.0.0.3: Applied config 9a1pscp1aea0q2  [LogTimer=33521ms]
2026-11-24 23:07:14,997\tERR updater.py:177 -- \x1b[31mNew status: \x1b[1mupdate-failed\x1b[22m\x1b[26m\x1b[39m
"""  # noqa: E501
OTHER_VERSION = """\
RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.60.0
    Python: 3.11.7
This process on node 10.0.0.4 was started with:
    Ray: 2.59.0
    Python: 3.11.7
2026-11-24 23:07:14,996\tINFO log_timer.py:25 -- NodeUpdater: 10.0.0.4: Ray start commands failed [LogTimer=2147ms]
"""  # noqa: E501
STARTED = (
    "NodeUpdater: {}: Ray start commands succeeded [LogTimer=3000ms]\n"  # As above, afterwards.
)
_HEAD_NODE = {
    "Resources": {"node:__internal_head__": 1.0},
    "Labels": {"ray.io/node-group": "t"},
}
CLUSTER_FILE = {
    "max_workers": 5,
    "head_node_type": "head",
    "provider": {"type": "aws"},
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 1, "max_workers": 4},
        "cpu": {"resources": {"CPU": 4}, "min_workers": 0, "max_workers": 3},
    },
}


def test_a_worker_with_a_wrong_token_is_found_in_the_log_of_the_head():
    autoscaler = parse_autoscaler(CLUSTER_FILE, REFUSED)
    (verdict,) = judge_nodes(autoscaler, ["10.0.0.1"], {})
    assert verdict.state == "wrong"
    assert verdict.message == (
        "10.0.0.3 could not join: its token is missing or differs from the head's"
    )
    assert "~/.ray/auth_token" in verdict.remedy
    assert "RAY_AUTH_MODE=token" in verdict.remedy


def test_a_worker_with_another_ray_is_found_in_the_log_of_the_head():
    autoscaler = parse_autoscaler(CLUSTER_FILE, REFUSED + OTHER_VERSION)
    verdicts = judge_nodes(autoscaler, ["10.0.0.1"], {})
    assert [v.message for v in verdicts] == [
        "10.0.0.3 could not join: its token is missing or differs from the head's",
        "10.0.0.4 could not join: its version of Ray or Python differs from the head's",
    ]
    assert "install the head's versions there" in verdicts[1].remedy


def test_a_worker_that_joined_at_last_is_no_failure():
    log = REFUSED + OTHER_VERSION + STARTED.format("10.0.0.3")
    assert list(parse_join_failures(log)) == ["10.0.0.4"]


def test_workers_that_are_started_side_by_side_have_each_their_own_reason():
    first, *rest = REFUSED.splitlines()
    start = first.replace("10.0.0.3", "10.0.0.4")
    refused = next(line for line in rest if "InvalidAuthToken" in line)
    mismatch, failed = OTHER_VERSION.rsplit("2026", 1)
    # What is refused tries for half a minute; the other one is through at once.
    log = "\n".join([first, start, mismatch, refused, f"2026{failed}", *rest])
    assert parse_join_failures(log) == {
        "10.0.0.3": "its token is missing or differs from the head's",
        "10.0.0.4": "its version of Ray or Python differs from the head's",
    }
    without = "\n".join([first, start, mismatch, f"2026{failed}", refused, *rest])
    assert parse_join_failures(without) == parse_join_failures(log)


def test_a_worker_that_failed_once_and_is_there_now_is_not_named():
    autoscaler = parse_autoscaler(CLUSTER_FILE, REFUSED)
    assert judge_nodes(autoscaler, ["10.0.0.1", "10.0.0.3"], {"gpu": 1}) == []


def test_machines_that_should_be_there_and_are_not_are_a_warning():
    (verdict,) = judge_nodes(parse_autoscaler(CLUSTER_FILE), ["10.0.0.1"], {"cpu": 1})
    assert verdict.state == "warning"
    assert verdict.message == "1 of 1 machines of type gpu are missing"


def test_machines_of_ones_own_that_are_not_there_are_named_by_address():
    tree = yaml.safe_load("""
        max_workers: 2
        head_node_type: local.cluster.node
        provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2, 10.0.0.3]}
        available_node_types:
          local.cluster.node: {resources: {}, node_config: {}, min_workers: 2, max_workers: 2}
    """)
    autoscaler = parse_autoscaler(tree)
    running = autoscaler.count_running([_HEAD_NODE, {"Resources": {"CPU": 1.0}, "Labels": {}}])
    (verdict,) = judge_nodes(autoscaler, ["10.0.0.1", "10.0.0.2"], running)
    assert verdict.message == "1 of 2 machines of type local.cluster.node are missing (10.0.0.3)"
    # What such a machine has is not known before it is there.
    assert autoscaler.addable_nodes(running) == []


def test_the_autoscaler_may_add_up_to_the_limits_of_each_type_and_of_all():
    autoscaler = parse_autoscaler(CLUSTER_FILE)
    gpu, cpu = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 4.0}
    assert autoscaler.addable_nodes({}) == [gpu] * 4 + [cpu]
    assert autoscaler.addable_nodes({"gpu": 1, "cpu": 3}) == [gpu]
    assert autoscaler.addable_nodes({"gpu": 4, "cpu": 1}) == []


def test_the_head_is_no_worker_of_its_type():
    worker = {"Resources": {"CPU": 2.0}, "Labels": {"ray.io/node-group": "t"}}
    assert parse_autoscaler(CLUSTER_FILE).count_running([_HEAD_NODE, worker]) == {"t": 1}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_autoscaler_of_this_machine_is_found_by_its_process(tmp_path):
    (tmp_path / "bootstrap.yaml").write_text(json.dumps(CLUSTER_FILE))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "monitor.out").write_text(REFUSED)
    script = tmp_path / "monitor.py"
    script.write_text("print(flush=True)\ninput()\n")
    options = [f"--logs-dir={logs}", f"--autoscaling-config={tmp_path / 'bootstrap.yaml'}"]
    command = [sys.executable, str(script), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = find_autoscaler(logs)
        assert find_autoscaler(tmp_path / "others") is None
        process.communicate(b"\n", timeout=60)
    assert found is not None
    assert found.max_workers == 5
    assert list(found.failures) == ["10.0.0.3"]
