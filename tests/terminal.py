"""A command in a terminal: what it shows there, and which of it is not ours."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What loggers, warnings and Ray's processes write.
_FOREIGN = re.compile(
    r"\(\w+ pid=|raylet|core_worker|gcs_|\bpid=|Traceback|Warning:|"
    r"\d{4}-\d\d-\d\d.\d\d:\d\d|\b(INFO|WARNING|ERROR|DEBUG)\b|\.(py|cc):\d+|infinite retries"
)


class Terminal:
    """A process in a terminal of 24 lines, which is read as it writes."""

    def __init__(self, command: Sequence[str], columns: int = 80, **options: Any) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment |= options.pop("env", {})
        environment.pop("CI", None)
        self.process = subprocess.Popen(
            command, stdout=theirs, stderr=theirs, env=environment, **options
        )
        os.close(theirs)
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def seen(self) -> str:
        """What it has shown so far."""
        return self._seen.decode("utf-8", errors="replace")

    def wait_for(self, words: str, timeout_s: float = 180) -> None:
        """Until these words have appeared."""
        end = time.monotonic() + timeout_s
        while words not in self.seen:
            assert time.monotonic() < end, self.seen
            assert self.process.poll() is None, self.seen
            time.sleep(0.1)

    def wait(self) -> str:
        """What it has shown when it and all that write to its terminal have ended."""
        self.process.wait()
        self._reader.join()
        os.close(self._ours)
        return self.seen

    def _read(self) -> None:
        # Linux reports as an error that the other end is closed.
        with suppress(OSError):
            while part := os.read(self._ours, 65536):
                self._seen += part


def run_on_terminal(command: Sequence[str], columns: int = 80, **options: Any) -> tuple[int, str]:
    """The exit code of a command, and what a terminal got to see of it."""
    terminal = Terminal(command, columns, **options)
    seen = terminal.wait()
    return terminal.process.returncode, seen


def python(verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mbti_ray.{verb}", *arguments]


def lines_left(seen: str, columns: int) -> list[str]:
    """The lines that remain on the terminal, with transient ones gone."""
    import pyte

    screen = pyte.HistoryScreen(columns, 500, history=5000)
    pyte.Stream(screen).feed(seen)
    return [line.rstrip() for line in screen.display if line.strip()]


def foreign_lines(text: str) -> list[str]:
    """Lines that a logger, a warning or another process wrote."""
    lines = _ESCAPE.sub("", text).replace("\r", "\n").splitlines()
    return [line for line in lines if _FOREIGN.search(line)]


def assert_readable(seen: str, columns: int) -> None:
    """Nothing foreign, nothing cut, and no line over the edge but those of commands to copy."""
    assert foreign_lines(seen) == []
    assert "\u2026" not in seen, seen
    plain = _ESCAPE.sub("", seen).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.splitlines() if len(line.rstrip()) > columns]
    assert [n for n in lines if not (" -" in n or "/" in n or n.startswith("  try "))] == [], seen
