"""A run belongs to one command at a time: real processes, a disk and an S3 server."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest
from s3_server import Server, s3_server

from mbti_ray import train, tune
from mbti_ray.__main__ import main
from mbti_ray.errors import RunError, StorageError
from mbti_ray.runs import run_lock as lock
from mbti_ray.runs.run_lock import run_lock
from mbti_ray.storage.remote import Location, RemotePath, parse_location

pytestmark = pytest.mark.unit

# Holds the lock until its standard input ends.
HOLDER = """
import sys
from mbti_ray.errors import RunError
from mbti_ray.runs.run_lock import run_lock
from mbti_ray.storage.remote import parse_location
run = parse_location(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with run_lock(run):
        print("has it", flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture(autouse=True)
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLE_S", 0.5)


@pytest.fixture(params=["disk", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Location:
    """A run that does not exist yet."""
    if request.param == "disk":
        return tmp_path / "runs" / "dup"
    name = request.node.name.translate(dict.fromkeys(b"[]/:"))
    return parse_location(f"{server.url}/{name}/dup")


class Holder:
    """A process that takes the lock when it is told to."""

    def __init__(self, run: Location) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("command", [train, tune])
def test_a_second_command_on_the_same_name_is_refused_with_who_holds_it(
    run: Location, command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with Holder(run) as holder:
        holder.start()
        assert holder.line() == "has it"
        assert command.main(["name=dup", f"storage={run.parent}"]) == 2
        message = capsys.readouterr().err.strip()
    assert message.startswith(f"{run}: in use by process {holder.process.pid} on ")
    assert ", since 20" in message
    assert "\n" not in message


def test_of_commands_that_start_at_the_same_time_exactly_one_gets_the_run(run: Location) -> None:
    with ExitStack() as stack:
        holders = [stack.enter_context(Holder(run)) for _ in range(3)]
        for holder in holders:
            holder.start()
        lines = [holder.line() for holder in holders]
    assert lines.count("has it") == 1
    assert all("in use by" in line for line in lines if line != "has it")


def test_a_command_does_not_wait_for_one_that_has_the_lock_whatever_their_names(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = parse_location(f"{server.url}/held/dup")

    def wait(seconds: float) -> None:
        raise AssertionError("it waits")

    with Holder(run) as holder:
        holder.start()
        assert holder.line() == "has it"
        monkeypatch.setattr(lock.time, "sleep", wait)
        for digit in "0f":
            monkeypatch.setattr(lock, "uuid4", lambda digit=digit: UUID(digit * 32))
            with pytest.raises(RunError, match="in use by process"), run_lock(run):
                pass


def test_a_run_is_free_at_once_after_kill_9_of_its_command(run: Location) -> None:
    with Holder(run) as holder:
        holder.start()
        assert holder.line() == "has it"
    with run_lock(run):
        pass


def test_nothing_is_left_of_a_lock(run: Location) -> None:
    with run_lock(run), pytest.raises(RunError, match="in use by"), run_lock(run):
        pass
    if isinstance(run, Path):
        assert not run.parent.exists()
    else:
        assert run.parent.rglob("*") == []
    with run_lock(run):
        pass


def test_the_lock_of_another_machine_in_a_bucket_is_respected_while_it_is_renewed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stale = (parse_location(f"{server.url}/{name}/dup") for name in ("renewed", "stale"))
    assert isinstance(run, RemotePath)
    assert isinstance(stale, RemotePath)
    monkeypatch.setattr(lock, "_EXPIRE_S", 2.0)
    monkeypatch.setattr(lock, "_RENEW_S", 0.2)
    monkeypatch.setattr(lock, "_SETTLE_S", 0.0)
    elsewhere = {"host": "10.0.0.9", "pid": 1, "pids": "x", "since": "2026-11-25 12:00:00"}
    monkeypatch.setattr(lock, "describe_process", lambda: elsewhere)
    left = parse_location(f"{server.url}/stale/.dup.lock/0")
    left.write_text(json.dumps(elsewhere), "utf-8")
    with pytest.raises(RunError, match="in use"), run_lock(stale):
        pass
    with run_lock(run):
        (held,) = (run.parent / ".dup.lock").files()
        first = held.modified()
        _wait_until(lambda: held.modified() - first >= 3)
        with pytest.raises(RunError, match=r"process 1 on 10\.0\.0\.9, since 2026"), run_lock(run):
            pass
    _wait_until(lambda: _now(stale.parent) - left.modified() >= 3)
    with run_lock(stale):
        assert not left.exists()


def _now(folder: RemotePath) -> float:
    """The time by the clock of the store."""
    (folder / "clock").write_text("", "utf-8")
    return (folder / "clock").modified()


def _wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_storage_that_cannot_be_written_is_one_sentence() -> None:
    with (
        pytest.raises(StorageError, match=r"^/proc/runs/\.dup\.lock: cannot be written \("),
        run_lock(Path("/proc/runs/dup")),
    ):
        pass


@pytest.mark.parametrize(
    "argv",
    [
        ["export", "{}/study/best/bundle", "data.source=x.csv"],
        ["evaluate", "{}/study", "data.source=x.csv", "--report", "{}/study/best/scores.html"],
    ],
)
def test_what_writes_into_a_run_in_use_is_refused(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "study" / "best" / "bundle"
    bundle.mkdir(parents=True)
    for file in (bundle / "bundle.json", bundle.parent / "config.yaml"):
        file.write_text("{}")
    (tmp_path / "study" / "config.yaml").write_text("{}")
    with run_lock(tmp_path / "study"):
        assert main([item.format(tmp_path) for item in argv]) == 2
    assert "study: in use by process" in capsys.readouterr().err
    assert main([item.format(tmp_path) for item in argv]) == 2
    assert "in use" not in capsys.readouterr().err
    assert not list(tmp_path.glob("**/.*.lock"))


# A test run in the background of a shell ignores Ctrl-C, and so would what it starts.
WAITS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from mbti_ray.cli.command import build_parser, run_command
from mbti_ray.runs.run_lock import run_lock
def command(options):
    with run_lock(Path(options.items[0])):
        print("held", flush=True)
        time.sleep(600)
sys.exit(run_command(build_parser("train", "", items=""), command))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_training_begins_leaves_no_lock_and_is_the_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", WAITS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(number)
        assert process.wait(60) == code
    assert list(tmp_path.iterdir()) == []
