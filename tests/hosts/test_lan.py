"""The hosts themselves: they reach each other, differ where hosts do, and never outlive a test."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lan import SHARED, Switch, why_not

pytestmark = pytest.mark.hosts

MAKES_HOSTS = """
import sys, time
from pathlib import Path
from lan import Switch
switch = Switch(Path(sys.argv[1]))
hosts = [switch.add_host(name) for name in ("one", "two")]
print(*(host.holder.pid for host in hosts), switch.holder.pid, flush=True)
time.sleep(600)
"""


def test_hosts_have_one_folder_in_common_and_the_rest_to_themselves(switch: Switch) -> None:
    one, two = switch.add_host("one"), switch.add_host("two")
    for host in (one, two):
        host.run("bash", "-c", f"echo {host.name} | tee -a {SHARED}/all > /tmp/own")
    assert two.run("cat", f"{SHARED}/all").stdout.split() == ["one", "two"]
    over = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR", two.address]
    assert one.run(*over, "hostname; cat /tmp/own").stdout.split() == ["two", "two"]
    assert one.run("cat", "/tmp/own").stdout.split() == ["one"]
    assert not Path("/tmp/own").exists()
    # Not even the other's sshd, which has the same name.
    assert len(one.processes("sshd")) == 1


def test_a_cut_host_is_out_of_reach_until_it_is_joined_again(switch: Switch) -> None:
    asking, cut = switch.hosts[0], switch.hosts[1]
    reach = ["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{cut.address}/22"]
    assert not asking.run(*reach, check=False).returncode
    cut.cut()
    assert asking.run(*reach, check=False).returncode
    cut.join()
    assert not asking.run(*reach, check=False).returncode


def test_hosts_end_with_the_process_that_made_them_even_when_it_is_killed(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKES_HOSTS, str(tmp_path)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdout is not None
    pids = [int(pid) for pid in maker.stdout.readline().split()]
    maker.stdout.close()
    assert len(pids) == 3
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    end = time.monotonic() + 20
    while [pid for pid in pids if Path(f"/proc/{pid}/ns/net").exists()]:
        assert time.monotonic() < end
        time.sleep(0.1)
