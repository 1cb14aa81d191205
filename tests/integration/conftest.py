"""One tokenised dataset for the tests of the engine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import Dataset, prepare_dataset

Build = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def data(quick: Build, cache: Path) -> Dataset:
    return prepare_dataset(quick(), cache)


@pytest.fixture(scope="session")
def short(quick: Build) -> Build:
    """As `quick`, with one short window of each row: what only needs steps needs no long ones."""
    return partial(quick, "model.max_tokens=32", "data.max_windows=1")


@pytest.fixture(scope="session")
def short_data(short: Build, cache: Path) -> Dataset:
    return prepare_dataset(short(), cache)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # The number of threads decides the order of sums; two processes use one each.
    torch.set_num_threads(1)
