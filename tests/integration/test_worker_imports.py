"""What a training worker loads before it trains."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

SCRIPT = """
import sys
from mbti_ray.on_ray.train.worker import train_loop
heavy = ("mbti_ray.inference", "mbti_ray.serving", "mbti_ray.reports", "ray.serve", "fastapi")
print(*sorted(m for m in sys.modules if m.startswith(heavy)))
"""


def test_a_training_worker_loads_neither_the_predictor_nor_serving() -> None:
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
