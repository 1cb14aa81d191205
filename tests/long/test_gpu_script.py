"""benchmarks/gpu.py, which waits for a card, runs from end to end on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
NEEDS_A_CARD = {"compile", "train_s < 60", "matmul_share >= 0.4", "peak_gib < 4"}


def test_every_check_that_a_cpu_can_make_holds_and_every_figure_is_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--tiny", "--output", tmp_path / "g.json"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    verdicts = last.pop("verdicts")
    checks = json.loads((tmp_path / "g.json").read_text("utf-8"))["checks"]
    failed = {name: checks.get(name) for name, verdict in verdicts.items() if verdict is False}
    assert not failed
    assert {name for name, verdict in verdicts.items() if verdict is None} == NEEDS_A_CARD
    assert all(isinstance(figure, float) for figure in last.values()), last
