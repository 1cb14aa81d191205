"""What the tests of the engine and of served models share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from mbti_ray.config import RunConfig
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.inference.predictor import Predictor

Build = Callable[..., RunConfig]
POSTS = ("model.reader=posts", "model.post_tokens=24", "fit.posts=3", "optim.head_lr=0.05")


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


@pytest.fixture(scope="session")
def posts(quick: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds configs of the reader of posts for users with 1 to 7 posts."""
    path = tmp_path_factory.mktemp("posts") / "users.csv"
    lines = ["type,posts"]
    for place, row in enumerate(builtin_rows(users=160)):
        cell = "|||".join(row.posts[: 1 + place % 7]).replace('"', "'")
        lines.append(f'{row.mbti_type},"{cell}"')
    path.write_text("\n".join(lines), "utf-8")
    return lambda *more: quick(*POSTS, f"data.source={path}", *more)


@pytest.fixture(scope="session", params=[0, 1], ids=["attention", "layer"])
def posts_model(
    request: pytest.FixtureRequest, posts: Build, make_bundle: Callable[[RunConfig], Path]
) -> Predictor:
    return Predictor.load(make_bundle(posts(f"model.post_layers={request.param}")))


@pytest.fixture(scope="session")
def posts_data(posts: Build, cache: Path) -> Dataset:
    return prepare_dataset(posts(), cache)


@pytest.fixture(scope="session")
def predictor(quick: Build, make_bundle: Callable[[RunConfig], Path]) -> Predictor:
    """Of a bundle that reads 32 tokens."""
    return Predictor.load(make_bundle(quick("model.max_tokens=32", "fit.epochs=1")))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """The thread of a service's forward passes."""
    with ThreadPoolExecutor(1) as made:
        yield made
