"""SIGTERM ends a command with 143, whatever others do with handlers and exceptions."""

import os
import signal
import subprocess
import sys
import time

import pytest
import ray

from mbti_ray.cli.command import build_parser, check_terminated, run_command
from mbti_ray.on_ray.signals import keep_sigterm_handler

pytestmark = pytest.mark.unit


def test_a_sigterm_whose_exception_was_dropped_ends_the_command_at_its_next_check(capsys):
    reached = []

    def command(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as dropped:
            # CPython itself would end the process by SIGINT for one of this class alone.
            reached.append(type(dropped) is not KeyboardInterrupt)
        check_terminated()
        reached.append("not here")

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(build_parser("train", "Train.", items=""), command, []) == 143
    assert reached == [True]
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before
    # That was the last command's.
    assert (
        run_command(build_parser("train", "Train.", items=""), lambda o: check_terminated(), [])
        == 0
    )


def test_what_others_set_on_sigterm_while_ray_starts_does_not_stay():
    before = signal.getsignal(signal.SIGTERM)
    replace = ray._private.utils.set_sigterm_handler
    with keep_sigterm_handler():
        ray._private.utils.set_sigterm_handler(lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is before
        # As the C++ code of Ray does.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before
    assert ray._private.utils.set_sigterm_handler is replace


def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_traceback(tmp_path):
    # Imported by every command, and never done.
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text(
        "import pathlib, time\npathlib.Path(__file__).with_name('here').touch()\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-m", "mbti_ray.train"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    started = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        # In the background of a shell it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "rich/here").exists():
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=30)[1] == ""
    assert started.returncode == -signal.SIGINT
