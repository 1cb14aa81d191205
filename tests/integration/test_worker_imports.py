"""What a training worker loads before it trains."""

import sys
from pathlib import Path

import pytest
from ranks import run_ranks

pytestmark = pytest.mark.integration

HEAVY = ("mbti_ray.inference", "mbti_ray.serving", "mbti_ray.reports", "ray.serve", "fastapi")


def heavy_modules(rank: int) -> list[str]:
    """Of a process that has the engine; this file and the one it imports need no more."""
    import mbti_ray.on_ray.train.worker  # noqa: F401

    return sorted(name for name in sys.modules if name.startswith(HEAVY))


def test_a_training_worker_loads_neither_the_predictor_nor_serving(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert run_ranks(heavy_modules, tmp_path, world_size=1) == [[]]
