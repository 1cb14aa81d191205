"""A Ray cluster on test hosts, made from clusters/local.yaml with the real `ray` commands.

What differs from that file: the addresses and the key, the environment that is linked instead of
installed (there is no network), and how much of this small machine a node takes.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from lan import HOME, SHARED, Host, Switch

ROOT = Path(__file__).parents[2]
RUNS = f"{SHARED}/runs"
_FILE = f"{HOME}/cluster.yaml"
_STORE_BYTES = 150_000_000
_GOING = ("PENDING", "RUNNING")


class Cluster:
    """A laptop, a head and workers; up once `up` has returned.

    Args:
        switch: What they hang on.
        workers: How many.
        cpus: CPUs that each worker says it has.
    """

    def __init__(self, switch: Switch, *, workers: int, cpus: int = 1) -> None:
        self.laptop, self.head = switch.add_host("laptop"), switch.add_host("head")
        self.workers = [switch.add_host(f"worker-{n + 1}") for n in range(workers)]
        self._cpus = cpus
        self._switch = switch
        self._tunnel: subprocess.Popen[bytes] | None = None
        for host in (self.laptop, self.head, *self.workers):
            host.run("ln", "-s", str(Path(sys.prefix)), f"{HOME}/venv")
        self.laptop.run("ray", "get-auth-token", "--generate")
        # As README says: from the repository's root.
        self.laptop.run("ln", "-s", str(ROOT), f"{HOME}/mbti_ray")

    @property
    def storage(self) -> Path:
        """The runs, as the test sees them."""
        return self._switch.shared / "runs"

    def up(self, *, joining: int | None = None, **changes: Any) -> str:
        """`ray up`, and wait until the workers are there; what it printed.

        Args:
            joining: How many workers will be there; all, if not said.
            changes: Keys of the cluster file that are others.
        """
        tree = self.tree() | changes
        count = len(self.workers) if joining is None else joining
        (self._switch.shared / "cluster.yaml").write_text(yaml.safe_dump(tree), "utf-8")
        self.laptop.run("cp", f"{SHARED}/cluster.yaml", _FILE)
        said = self.ray("up", "--yes", timeout_s=240).stdout
        wait_until(lambda: len(self.alive()) == 1 + count, 180, "all workers")
        return said

    def tree(self) -> dict[str, Any]:
        """clusters/local.yaml for these hosts."""
        tree = yaml.safe_load((ROOT / "clusters/local.yaml").read_text("utf-8"))
        addresses = [host.address for host in self.workers]
        tree["provider"] |= {"head_ip": self.head.address, "worker_ips": addresses}
        tree |= {"min_workers": len(addresses), "max_workers": len(addresses)}
        tree["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        assert tree["setup_commands"] == ["bash ~/cluster/node/setup.sh"]
        tree["setup_commands"] = ['echo "source ~/cluster/node/environment.sh" > ~/.bashrc']
        small = f" --object-store-memory={_STORE_BYTES}"
        tree["head_start_ray_commands"][-1] += small
        start = next(c for c in tree["worker_start_ray_commands"] if "ray start" in c)
        at = tree["worker_start_ray_commands"].index(start)
        tree["worker_start_ray_commands"][at] += f"{small} --num-cpus={self._cpus}"
        return dict(tree)

    def ray(
        self, verb: str, *arguments: str, check: bool = True, timeout_s: float = 300.0
    ) -> "subprocess.CompletedProcess[str]":
        """`ray VERB cluster.yaml ...` on the laptop."""
        argv = [f"cd {HOME}/mbti_ray && exec ray {verb} {_FILE} {_quoted(arguments)}"]
        return self.laptop.run("bash", "-c", *argv, check=check, timeout_s=timeout_s)

    def submit(
        self,
        *command: str,
        job: str,
        timeout_s: float = 300.0,
        environment: Mapping[str, str] | None = None,
        state: str = "SUCCEEDED",
    ) -> str:
        """Run a command as a job, sent from the laptop through `ray dashboard`; what it printed.

        Args:
            job: Its id.
            environment: Of all its processes, on every host.
            state: That it should end in.
        """
        self.begin(*command, job=job, environment=environment)
        return self.finish(job, timeout_s=timeout_s, state=state)

    def finish(self, job: str, *, timeout_s: float = 300.0, state: str = "SUCCEEDED") -> str:
        """Wait until a job has done what it should; what it printed."""
        ended = lambda: self.job_state(job) not in _GOING  # noqa: E731
        wait_until(ended, timeout_s, lambda: self.job("logs", job))
        said = self.job("logs", job)
        assert self.job_state(job) == state, said
        return said

    def begin(self, *command: str, job: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a job and leave it to itself."""
        if self._tunnel is None or self._tunnel.poll() is not None:
            self._tunnel = self._open_tunnel()
        given = _q(json.dumps({"env_vars": dict(environment or {})}))
        options = f"--no-wait --working-dir . --submission-id {job} --runtime-env-json {given}"
        self.job("submit", f"{options} -- {_quoted(command)}")

    def job(self, verb: str, arguments: str) -> str:
        """`ray job VERB`, on the laptop, from the repository's root."""
        place = "RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265"
        line = f"cd {HOME}/mbti_ray && {place} ray job {verb} {arguments}"
        return self.laptop.run("bash", "-c", line).stdout

    def job_state(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        (state,) = re.findall(
            r"\b(?:PENDING|RUNNING|SUCCEEDED|FAILED|STOPPED)\b|succeeded|failed"
            r"|was stopped",
            self.job("status", job),
        )[:1]
        return {"succeeded": "SUCCEEDED", "failed": "FAILED", "was stopped": "STOPPED"}.get(
            state, state
        )

    def _open_tunnel(self) -> "subprocess.Popen[bytes]":
        line = f"cd {HOME}/mbti_ray && exec ray dashboard {_FILE}"
        tunnel = self.laptop.start("bash", "-c", line, log=self._switch.shared / "tunnel.log")
        probe = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8265"]
        wait_until(lambda: not self.laptop.run(*probe, check=False).returncode, 60, "the tunnel")
        return tunnel

    def alive(self) -> list[dict[str, Any]]:
        """The nodes that are part of the cluster, as it sees itself; empty if it is not there."""
        return [node for node in self.nodes() if node["Alive"]]

    def nodes(self) -> list[dict[str, Any]]:
        look = (
            "import json, ray; ray.init('auto', logging_level='ERROR', log_to_driver=False); "
            "print('NODES', json.dumps(ray.nodes()))"
        )
        argv = ["bash", "-c", f"source ~/cluster/node/environment.sh; exec python -c {_q(look)}"]
        done = self.head.run(*argv, check=False, timeout_s=60)
        found = re.search(r"^NODES (.*)$", done.stdout, re.MULTILINE)
        return json.loads(found[1]) if found else []

    def log(self, pattern: str) -> str:
        """The end of a log of the head's Ray."""
        argv = ["bash", "-c", f"tail -n 60 /tmp/ray/session_latest/logs/{pattern}"]
        return self.head.run(*argv, check=False).stdout

    def left_running(self) -> dict[str, list[str]]:
        """What runs on the hosts that only Ray would have started."""
        hosts: list[Host] = [self.head, *self.workers]
        return {h.name: found for h in hosts if (found := h.processes("ray"))}


def wait_until(
    happened: Callable[[], bool], timeout_s: float, what: str | Callable[[], object]
) -> None:
    """Look again and again until it has.

    Args:
        what: Is said when it has not; asked only then, if it can be called.
    """
    end = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > end:
            raise AssertionError(
                f"not within {timeout_s:g} s: {what() if callable(what) else what}"
            )
        time.sleep(1.0)


def _quoted(arguments: tuple[str, ...]) -> str:
    return " ".join(_q(argument) for argument in arguments)


def _q(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
