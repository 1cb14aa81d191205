"""A fresh reader: from a CSV of 60 people to a served model, typing what the program prints."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal, assert_readable, lines_left, python, run_on_terminal

from mbti_ray.data.builtin_corpus import builtin_rows
from service_command import free_port

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
# Recordings are kept for a person to look at: `cat` shows them.
SCREENSHOTS = ROOT / "test-screenshots"


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
    assert not re.search(r"[\u2501\u2800-\u28ff]|\d:\d\d:\d\d", "\n".join(lines)), "a bar was left"

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

    study = ["study.trials=2", "fit.epochs=2", "name=found"]
    config = str(ROOT / "tune_configs" / "quick.yaml")
    code, tuned = run_on_terminal(
        python("tune", config, "data.source=my.csv", *study), columns, cwd=tmp_path
    )
    assert code == 0, tuned
    assert_readable(tuned, columns)
    SCREENSHOTS.mkdir(exist_ok=True)
    for name, recording in {"train": shown, "serve": said, "tune": tuned}.items():
        (SCREENSHOTS / f"{name}-{columns}.txt").write_text(recording, "utf-8")


def test_the_demo_shows_a_search_a_service_and_an_answer_and_nothing_foreign(
    tmp_path: Path,
) -> None:
    for folder in ("examples", "tune_configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    code, shown = run_on_terminal([sys.executable, "examples/demo.py"], 100, cwd=tmp_path)
    assert code == 0, shown
    # Its last line is the response as programs read it, however long.
    before, _, response = shown.rpartition('{"type"')
    assert_readable(before, 100)
    assert {"probabilities", "truncated"} <= json.loads('{"type"' + response.strip()).keys()
