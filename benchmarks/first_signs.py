"""Seconds from Enter to the first sign of life, to the summary, to the first epoch, to a refusal.

    python benchmarks/first_signs.py [--base FOLDER] [--runs 10] [--only refused]

Types each command in a terminal of 80 columns and reads what appears. `--base` is another checkout,
such as the state before a change, which is measured alternately. Prints medians and ranges as one
JSON line a command, and the CPU seconds of its process, which other users of the machine do not
change. Keeps every run as raw JSON in benchmarks/results/first_signs.json.
"""

import argparse
import fcntl
import json
import os
import platform
import pty
import re
import statistics
import struct
import sys
import tempfile
import termios
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# What to wait for: any byte at all, the summary, the first line or bar that has an epoch's result.
_ANY = r"."
_TRAIN = {
    "first sign": _ANY,
    "summary": r"(?m)^\S*model +tiny",
    "first epoch": r"epoch 1 loss|\b1/1 +[01]\.\d",
}
_COMMANDS = {
    "train": (["train", "quick", "fit.epochs=1", "name=x", "--fresh"], _TRAIN, 0),
    "refused": (["train", "data.source={folder}/none.csv"], {"refusal": r"no such file"}, 2),
    "suffix": (["train", "data.source={folder}/my.docx"], {"refusal": r"cannot read"}, 2),
    "header": (["train", "data.source={folder}/header.csv"], {"refusal": r"no column"}, 2),
    "tune refused": (
        ["tune", "{root}/tune_configs/quick.yaml", "data.source={folder}/none.csv"],
        {"refusal": r"no such file"},
        2,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--only", choices=_COMMANDS)
    options = parser.parse_args()
    raw: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("mbti-ray", "ray", "torch", "transformers")},
        "runs": {},
    }
    for name in [options.only] if options.only else _COMMANDS:
        words, signs, code = _COMMANDS[name]
        packages = {"base": options.base} if options.base else {}
        packages["ours"] = Path(__file__).parents[1]
        seconds: dict[str, list[dict[str, float]]] = {side: [] for side in packages}
        for _ in range(options.runs):
            for side, package in packages.items():
                seconds[side].append(measure(package.resolve(), words, signs, code))
        raw["runs"][name] = seconds
        for side, runs in seconds.items():
            summary = {
                sign: {
                    "median": round(statistics.median(run[sign] for run in runs), 2),
                    "range": [round(edge(run[sign] for run in runs), 2) for edge in (min, max)],
                }
                for sign in (*signs, "CPU")
            }
            print(json.dumps({"command": name, "side": side, "runs": len(runs), **summary}))
    (RESULTS / "first_signs.json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")


def measure(package: Path, words: list[str], signs: dict[str, str], code: int) -> dict[str, float]:
    """When each sign appeared, in seconds since the command was started."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "my.docx").write_text("x")
        (Path(folder) / "header.csv").write_text("type,words\nINTJ,some\n")
        typed = [word.format(folder=folder, root=package) for word in words]
        command = [sys.executable, "-m", f"mbti_ray.{typed[0]}", *typed[1:], f"storage={folder}"]
        started = time.monotonic()
        process, terminal = pty.fork()
        if process == 0:
            os.environ |= {"PYTHONPATH": str(package), "TERM": "xterm"}
            os.environ.pop("CI", None)
            # Python finds packages in the current folder first.
            os.chdir(package)
            os.execv(command[0], command)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen, times = "", dict.fromkeys(signs, float("nan"))
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # how Linux reports that the other end is closed
                break
            if not data:
                break
            seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
            for sign, pattern in signs.items():
                if times[sign] != times[sign] and re.search(pattern, seen):
                    times[sign] = time.monotonic() - started
        os.close(terminal)
        _, status, usage = os.wait4(process, 0)
        ended = os.waitstatus_to_exitcode(status)
        if ended != code or any(value != value for value in times.values()):
            raise SystemExit(f"{' '.join(command)} ended with {ended}, {times}:\n{seen}")
        return times | {"CPU": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    main()
