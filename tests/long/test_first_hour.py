"""A fresh reader: from a CSV of 60 people to a served model, typing what the program prints."""

import csv
import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal, foreign_lines, lines_left, python, run_on_terminal

from mbti_ray.data.builtin_corpus import builtin_rows
from service_command import free_port

pytestmark = pytest.mark.long


def command_after(heading: str, seen: str) -> list[str]:
    """The command that the program offers under this name."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    (line,) = re.findall(rf"^{heading} +(.+?)\r?$", plain, re.MULTILINE)
    return shlex.split(line, comments=True)


@pytest.mark.parametrize("columns", [80, 140])
def test_five_commands_lead_from_a_csv_to_a_served_model(
    tmp_path: Path, columns: int, record_property: Callable[[str, object], None]
) -> None:
    with (tmp_path / "my.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["type", "posts"])
        writer.writerows((r.mbti_type, "|||".join(r.posts)) for r in builtin_rows(users=60))
    typed = [
        python("doctor", "quick", "data.source=my.csv"),
        python("audit", "data.source=my.csv"),
        python("train", "quick", "data.source=my.csv", "name=mine", "fit.epochs=3"),
    ]
    started = time.monotonic()
    shown = ""
    for command in typed:
        code, shown = run_on_terminal(command, columns, cwd=tmp_path)
        assert code == 0, shown
        assert_readable(shown, columns)
    lines = lines_left(shown, columns)
    assert lines[0].startswith("mbti-ray ")
    assert sum(line.lstrip().startswith(("1/3 ", "2/3 ", "3/3 ")) for line in lines) == 3
    assert any(line.startswith("0.") and " a letter on " in line for line in lines)
    assert "training" not in " ".join(lines), "a bar was left behind"

    serve = [*command_after("serve", shown), f"serve.port={free_port()}"]
    serving = Terminal(serve, columns, cwd=tmp_path)
    try:
        serving.wait_for("is ready")
        ask = command_after("ask", serving.seen)
        answer = json.loads(subprocess.run(ask, capture_output=True, check=True, text=True).stdout)
    finally:
        serving.process.send_signal(signal.SIGTERM)
        said = serving.wait()
    assert_readable(said, columns)
    assert set(answer["probabilities"]) == {"E", "N", "T", "J"}
    seconds = time.monotonic() - started
    record_property("seconds", seconds)
    print(f"five commands in {seconds:.0f} s")


def assert_readable(shown: str, columns: int) -> None:
    """Nothing foreign, and no word over the edge but those of commands to copy."""
    assert foreign_lines(shown) == []
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
    sentences = [line for line in plain.splitlines() if " -" not in line and "/" not in line]
    assert max(len(line.rstrip()) for line in sentences) <= columns
