"""Several hosts on one machine, with a switch between them, for tests of a real cluster.

A host has namespaces of its own for network, processes, mounts and its name; empty /tmp, /run,
/home and /dev/shm; an address on the switch; and an sshd. The machine's file system is behind it,
so its Python is there, and one folder, /mnt/shared, is the same on all of them. Nothing has a name
on the machine itself: when the first process of a host ends, the kernel takes the rest away, and
that process ends with the test's, even if that is killed.

Knows nothing of Ray.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOME = "/home/ray"
SHARED = "/mnt/shared"
TOOLS = ("ip", "unshare", "nsenter", "setpriv", "sshd", "ssh-keygen", "ssh", "rsync")
_NETWORK = "10.77.0"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START_TIMEOUT_S = 10.0

# $1 name, $2 folder of the switch's keys, $3 shared folder, $4 bytes of /dev/shm.
_BOOT = f"""
set -e
hostname "$1"
mount -t tmpfs tmpfs /mnt
mkdir /mnt/shared /mnt/keys
mount --bind "$3" /mnt/shared
mount --bind "$2" /mnt/keys
for place in /tmp /run /home; do mount -t tmpfs tmpfs $place; done
chmod 1777 /tmp
mount -t tmpfs -o size="$4" tmpfs /dev/shm
mkdir -p {HOME}/.ssh /run/sshd
mount --bind /mnt/keys/passwd /etc/passwd
# As Debian's and Ubuntu's installers write it.
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$1" > /mnt/hosts
mount --bind /mnt/hosts /etc/hosts
cp /mnt/keys/id {HOME}/.ssh/id_ed25519
cp /mnt/keys/id.pub {HOME}/.ssh/authorized_keys
chmod -R go= {HOME}/.ssh
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
exec "$(command -v sshd)" -D -e -f /mnt/keys/sshd_config
"""

_SSHD_CONFIG = """\
HostKey /mnt/keys/host_key
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


def why_not() -> str | None:
    """Why hosts cannot be made here, if they cannot."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=_PATH)]
    if missing:
        return f"hosts need {', '.join(missing)} (openssh-server, rsync, iproute2, util-linux)"
    tried = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--uts", "true"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else None


@dataclass
class Host:
    """One of them.

    Attributes:
        name: What it calls itself.
        address: On the switch.
        holder: The process of this machine whose end is the end of the host.
        environment: What commands that are run here have besides PATH and HOME.
    """

    name: str
    address: str
    holder: "subprocess.Popen[bytes]"
    switch: "Switch"
    environment: dict[str, str] = field(default_factory=dict)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def command(self, *argv: str) -> list[str]:
        """What runs `argv` on this host, as its root would after logging in."""
        pid = _only_child(self.holder.pid)
        enter = ["nsenter", "--target", str(pid), "--all"]
        given = [f"{name}={value}" for name, value in self.environment.items()]
        path = f"PATH={HOME}/venv/bin:{_PATH}"
        clean = [
            "env",
            "-i",
            f"--chdir={HOME}",
            f"HOME={HOME}",
            "USER=root",
            "LANG=C.UTF-8",
            path,
            *given,
        ]
        return [*enter, *clean, *argv]

    def run(
        self, *argv: str, check: bool = True, timeout_s: float = 300.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command here to its end; stdout has both streams."""
        done = subprocess.run(
            self.command(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {argv}: {done.returncode}\n{done.stdout}")
        return done

    def start(self, *argv: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start a command here, with its output in a file; it ends with the host at the latest."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.command(*argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.started.append(process)
        return process

    def processes(self, word: str) -> list[str]:
        """The command lines on this host that contain a word."""
        lines = self.run("ps", "-eo", "pid=,args=", "-ww").stdout.splitlines()
        return [line.strip() for line in lines if word in line and "ps -eo" not in line]

    def cut(self) -> None:
        """Pull the network cable."""
        self.switch.ip("link", "set", self.name, "down")

    def join(self) -> None:
        """Put it back."""
        self.switch.ip("link", "set", self.name, "up")

    def kill(self) -> None:
        """Pull the power cable: nobody on it can say goodbye to the others."""
        if self.holder.poll() is None:
            self.cut()
        for process in (self.holder, *self.started):
            process.kill()
            process.wait()


class Switch:
    """A bridge in a network namespace of its own, and the hosts that hang on it.

    Args:
        folder: Empty; for keys and for what the hosts share.
        shm_bytes: Shared memory of a host.

    Attributes:
        shared: What is /mnt/shared on all hosts.
        hosts: In the order in which they were added.
        holder: The process of this machine that keeps the switch.
    """

    def __init__(self, folder: Path, *, shm_bytes: int = 512 << 20) -> None:
        self._folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.hosts: list[Host] = []
        self._keys = _make_keys(folder / "keys")
        self._shm_bytes = shm_bytes
        self.holder = _hold(folder / "switch.log", ["unshare", "--net"], ["sleep", "infinity"])
        _wait_for_own_network(self.holder.pid)
        self.ip("link", "add", "bridge", "type", "bridge")
        # Ray finds a host's own address by asking for the way to one outside.
        self.ip("address", "add", f"{_NETWORK}.254/24", "dev", "bridge")
        self.ip("link", "set", "bridge", "up")

    def ip(self, *arguments: str) -> None:
        """Run `ip` in the switch's namespace."""
        _ip_in(self.holder.pid, *arguments)

    def add_host(self, name: str) -> Host:
        """Start one more host; it can be reached by ssh afterwards."""
        address = f"{_NETWORK}.{len(self.hosts) + 1}"
        spaces = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        places = [str(self._keys), str(self.shared), str(self._shm_bytes)]
        boot = ["sh", "-c", _BOOT, "boot", name, *places]
        holder = _hold(self._log(name), [*spaces, "--uts", "--mount", "--ipc"], boot)
        host = Host(name, address, holder, self)
        self.hosts.append(host)
        pid = str(_only_child(holder.pid))
        self.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self.ip("link", "set", name, "master", "bridge", "up")
        _ip_in(int(pid), "address", "add", f"{address}/24", "dev", "eth0")
        _ip_in(int(pid), "link", "set", "eth0", "up")
        _ip_in(int(pid), "route", "add", "default", "via", f"{_NETWORK}.254")
        self._wait_for_ssh(host)
        return host

    def _wait_for_ssh(self, host: Host) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/{host.address}/22"]
        while host.run(*probe, check=False).returncode:
            assert time.monotonic() < end, self._log(host.name).read_text("utf-8")
            time.sleep(0.05)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def close(self) -> None:
        """End all hosts and the switch."""
        for host in self.hosts:
            host.kill()
        self.holder.kill()
        self.holder.wait()


@contextmanager
def switched_on(folder: Path) -> Iterator[Switch]:
    """A switch that is off again afterwards, whatever happens."""
    switch = Switch(folder)
    try:
        yield switch
    finally:
        switch.close()


def _make_keys(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    for name in ("id", "host_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]
        subprocess.run([*make, str(folder / name)], check=True)
    (folder / "sshd_config").write_text(_SSHD_CONFIG, "utf-8")
    accounts = Path("/etc/passwd").read_text("utf-8").splitlines()
    # Whoever logs in as root comes to an empty home.
    root = f"root:x:0:0:root:{HOME}:/bin/bash"
    kept = [line for line in accounts if not line.startswith("root:")]
    (folder / "passwd").write_text("\n".join([root, *kept]) + "\n", "utf-8")
    return folder


def _hold(log: Path, spaces: Sequence[str], first: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start the first process of new namespaces, which ends when this one does."""
    with log.open("wb") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *spaces, *first],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )


def _only_child(pid: int) -> int:
    """The process that `unshare --fork` started: the first of its host."""
    end = time.monotonic() + _START_TIMEOUT_S
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    while time.monotonic() < end:
        children = listed.read_text("ascii").split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("a host did not start")


def _wait_for_own_network(pid: int) -> None:
    """Until then a command for its network would reach the machine's."""
    end = time.monotonic() + _START_TIMEOUT_S
    ours = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        assert time.monotonic() < end, "a network namespace did not start"
        time.sleep(0.01)


def _ip_in(pid: int, *arguments: str) -> None:
    enter = ["nsenter", "--target", str(pid), "--net", "ip", *arguments]
    done = subprocess.run(enter, capture_output=True, text=True, check=False)
    assert not done.returncode, f"ip {' '.join(arguments)}: {done.stderr}"
