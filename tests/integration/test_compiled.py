"""torch.compile: every stage and every run of a process is compiled, and graphs are counted."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def traced_only() -> Iterator[None]:
    """Graphs are traced and guarded as always, but run by torch itself: no C++ is compiled."""
    compiled = partial(torch.compile, backend="eager")
    with (
        mock.patch.object(torch, "compile", compiled),
        dynamo.patch(fail_on_recompile_limit_hit=True),
    ):
        torch.compiler.reset()
        yield
        torch.compiler.reset()


def few_rows(data: Dataset) -> Dataset:
    splits = {}
    for name, windows in data.splits.items():
        count = int(np.searchsorted(windows.row_index, 24))
        splits[name] = Windows(windows.table.slice(0, count), windows.rows.slice(0, 24))
    return replace(data, splits=splits)


def test_gradual_runs_of_one_process_never_reach_the_limit_of_graphs(
    quick: Build, data: Dataset, tmp_path: Path
) -> None:
    # Graphs differ by stage, by batches of one window or several, with or without padding, and by
    # dropout.
    settings = ["model.trainable=gradual", "fit.epochs=3", "fit.batch_size=2", "fit.accumulate=4"]
    few = few_rows(data)
    # Without a reset two such runs have more than torch allows.
    for trial in ("0.1", "0.2"):
        settings = [*settings, f"model.dropout={trial}"]
        expected = run(quick(*settings), few, Worker()).model.state_dict()
        before = counters["stats"]["unique_graphs"]
        outcome = run(quick("fit.compile=true", *settings), few, Worker(folder=tmp_path / trial))
        graphs = counters["stats"]["unique_graphs"] - before
        assert graphs >= 3, "one for each stage at least"
        note = (tmp_path / trial / "notes.txt").read_text("utf-8")
        assert note == f"torch.compile made {graphs} graphs\n"
        for name, value in outcome.model.state_dict().items():
            torch.testing.assert_close(value, expected[name])
