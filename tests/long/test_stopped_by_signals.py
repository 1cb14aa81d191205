"""Ctrl-C on a terminal and SIGTERM: a line at once, what runs is saved, the codes of the README."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

LONG_RUN = ["mbti_ray.train", "fit.epochs=400", "fit.patience=null", "name=long"]
LONG_STUDY = ["mbti_ray.tune", "study.trials=200", "study.max_concurrent=1", "name=long"]


class OnTerminal:
    """A command in the foreground of a terminal of its own."""

    def __init__(self, *arguments: str, storage: Path) -> None:
        self.child, self._terminal = pty.fork()
        if self.child == 0:
            os.environ["COLUMNS"] = "200"
            command = [sys.executable, "-m", *arguments, f"storage={storage}"]
            os.execv(sys.executable, command)
        os.set_blocking(self._terminal, False)
        self.seen = ""
        self.code: int | None = None

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def poll(self) -> int | None:
        if self.code is not None:
            return self.code
        try:
            self.seen += os.read(self._terminal, 1 << 16).decode("utf-8", "replace")
        except BlockingIOError:
            pass
        except OSError:  # how Linux reports that the child has closed its end
            _, status = os.waitpid(self.child, 0)
            self.code = os.waitstatus_to_exitcode(status)
        return self.code


def wait_until(is_true: Callable[[], object], command: OnTerminal, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        command.poll()
        assert time.monotonic() < deadline, command.seen
        time.sleep(0.05)


def has_lines(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and len(path.read_text("utf-8").splitlines()) > 1


def test_ctrl_c_saves_a_run_and_resume_continues_from_it(tmp_path: Path) -> None:
    command = OnTerminal(*LONG_RUN, storage=tmp_path)
    run = tmp_path / "long"
    wait_until(has_lines(run / "metrics.jsonl"), command)
    command.press_ctrl_c()
    # While it is still running.
    wait_until(lambda: "saving a checkpoint" in command.seen, command, 5)
    assert command.code is None
    wait_until(lambda: command.code is not None, command)
    assert command.code == 130, command.seen
    assert "Traceback" not in command.seen
    assert any((run / "checkpoints").glob("checkpoint_*"))
    assert not (tmp_path / ".long.lock").exists()
    epochs = len((run / "metrics.jsonl").read_text("utf-8").splitlines())
    resumed = [sys.executable, "-m", "mbti_ray.train", "--resume", f"storage={tmp_path}"]
    process = subprocess.Popen([*resumed, "name=long"])
    try:
        wait_until(
            lambda: len((run / "metrics.jsonl").read_text("utf-8").splitlines()) > epochs, command
        )
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143


@pytest.mark.parametrize("words", ["", "parameters"], ids=["at_once", "while_ray_starts"])
def test_sigterm_before_training_begins_is_143_and_leaves_no_lock(
    tmp_path: Path, words: str
) -> None:
    command = OnTerminal(*LONG_RUN, storage=tmp_path)
    wait_until(lambda: (tmp_path / ".long.lock").exists() and words in command.seen, command)
    os.kill(command.child, signal.SIGTERM)
    wait_until(lambda: command.code is not None, command)
    assert command.code == 143, command.seen
    assert "Traceback" not in command.seen
    assert not (tmp_path / ".long.lock").exists()
    assert not (tmp_path / "long").exists()


def test_a_second_ctrl_c_ends_a_run_now(tmp_path: Path) -> None:
    command = OnTerminal(*LONG_RUN, storage=tmp_path)
    wait_until(has_lines(tmp_path / "long" / "metrics.jsonl"), command)
    command.press_ctrl_c()
    wait_until(lambda: "saving a checkpoint" in command.seen, command, 5)
    command.press_ctrl_c()
    wait_until(lambda: command.code is not None, command)
    assert command.code == 130, command.seen
    assert "Traceback" not in command.seen


def test_ctrl_c_ends_a_study_after_its_running_trials_with_130(tmp_path: Path) -> None:
    command = OnTerminal(*LONG_STUDY, storage=tmp_path)
    wait_until(lambda: any(tmp_path.glob("long/trials/trial-*")), command)
    command.press_ctrl_c()
    wait_until(lambda: "no new trial starts" in command.seen, command, 5)
    wait_until(lambda: command.code is not None, command, 300)
    assert command.code == 130, command.seen
    assert (tmp_path / "long" / "best" / "bundle" / "bundle.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_service_that_a_signal_stops_ends_with_the_code_of_the_signal(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    train = [sys.executable, "-m", "mbti_ray.train", f"storage={tmp_path}", "name=served"]
    subprocess.run(train, check=True)
    command = OnTerminal("mbti_ray.serve", "serve.port=8765", storage=tmp_path)
    wait_until(lambda: "is ready" in command.seen, command)
    if number == signal.SIGINT:
        command.press_ctrl_c()
    else:
        os.kill(command.child, number)
    wait_until(lambda: "stopping after the requests" in command.seen, command, 5)
    wait_until(lambda: command.code is not None, command)
    assert command.code == code, command.seen
    assert "Traceback" not in command.seen
