"""SIGTERM ends a command with 143, whatever others do with handlers and exceptions."""

import os
import signal

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
