"""What several tiers share: small real data, quick configs, and one local Ray a session."""

import csv
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mbti_ray.config import RunConfig, load_run

# The machine decides how long an example takes, and others use it too.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


# Tests that start Ray, or hosts, or need the machine's ports.
_ONE_RAY = ("tests/cluster/", "tests/long/", "tests/hosts/")
_shared_ray: list[Any] = []
# But not these, whose service has a Ray and ports of its own.
_OWN_RAY = "tests/cluster/test_rollout.py"
# With several processes, what takes longest is begun first: at the end there is little to wait for.
_ORDER = ("tests/fakecuda/", _OWN_RAY, "tests/integration/", "tests/browser/", "tests/unit/")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, one runs all tests that share a machine's only Ray; others files.

    `--dist loadgroup` would say the same by marks, but its groups are lost in pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneRayScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if _shares_ray(nodeid) else nodeid.partition("::")[0]

    # In the order below, not by the number of tests.
    config.option.loadscopereorder = False
    return OneRayScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """What is imported here stays: a tenth of the fast tiers' time went into looking for cycles."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, what takes longest begins at once: the tests that share a Ray."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (not _shares_ray(item.nodeid), _place(item.nodeid)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The process that has run the tests that share a Ray ends it before it runs others."""
    if _shared_ray and hasattr(item.config, "workerinput") and not _shares_ray(item.nodeid):
        _shared_ray.pop().shutdown()


def _shares_ray(nodeid: str) -> bool:
    return nodeid.startswith(_ONE_RAY) and not nodeid.startswith(_OWN_RAY)


def _place(nodeid: str) -> int:
    return next((n for n, tier in enumerate(_ORDER) if nodeid.startswith(tier)), len(_ORDER))


@pytest.fixture(scope="session")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """313 users of the built-in corpus as a CSV file; the test split has an odd number of them."""
    return _write_users(tmp_path_factory.mktemp("data") / "small.csv", 313)


@pytest.fixture(scope="session")
def quick(small_file: Path) -> Callable[..., RunConfig]:
    """Builds the quick preset on the small file, with `key=value` changes."""

    def build(*overrides: str) -> RunConfig:
        return load_run(
            "quick", [f"data.source={small_file}", "fit.epochs=2", "fit.monitor=loss", *overrides]
        )

    return build


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Path]:
    """Trains a model and writes its bundle."""

    def make(config: RunConfig) -> Path:
        from mbti_ray.data.dataset import prepare_dataset
        from mbti_ray.engine.loop import run
        from mbti_ray.engine.worker import Worker
        from mbti_ray.inference.bundle_writer import write_bundle

        data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
        outcome = run(config, data, Worker())
        folder = tmp_path_factory.mktemp("run") / "bundle"
        write_bundle(
            folder,
            config=config,
            model=outcome.model,
            data=data,
            scores={"val": outcome.val, "test": outcome.test},
        )
        return folder

    return make


@pytest.fixture(scope="session")
def bundle(quick: Callable[..., RunConfig], make_bundle: Callable[[RunConfig], Path]) -> Path:
    """The bundle of a small trained model."""
    return make_bundle(quick("fit.epochs=1"))


@pytest.fixture(scope="session")
def other_bundle(quick: Callable[..., RunConfig], make_bundle: Callable[[RunConfig], Path]) -> Path:
    """Another one, of other weights."""
    return make_bundle(quick("fit.epochs=1", "seed=1"))


@pytest.fixture(scope="session")
def damaged_bundle(other_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose weights do not give its golden logits."""
    folder = tmp_path_factory.mktemp("damaged") / "bundle"
    shutil.copytree(other_bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["golden"][0]["logits"][0] += 1
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(scope="session")
def worse_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as `bundle`, that answers ENTJ whatever it reads."""
    folder = tmp_path_factory.mktemp("worse") / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["thresholds"] = [0.0] * 4
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(scope="session")
def new_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users of the built-in corpus who are not in the small file."""
    return _write_users(tmp_path_factory.mktemp("data") / "people.csv", 60, seed=1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of two CPUs for the whole session, stopped at its end."""
    import mbti_ray.on_ray  # noqa: F401  # sets what Ray reads when it is imported

    ray = pytest.importorskip("ray")
    os.environ |= {
        # At Ray's niceness of 15 its workers would wait for the other process of the tests.
        "RAY_worker_niceness": "0",
        # Nobody takes this machine away: a process less for each run.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }
    # Metrics every second, not every ten. Without the dashboard, which knows whether the controller
    # of a TorchTrainer lives, Ray never frees the CPUs of one that was killed.
    ray.init(
        num_cpus=2,
        logging_level="ERROR",
        include_dashboard=True,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    _shared_ray.append(ray)
    yield
    ray.shutdown()


def _write_users(path: Path, users: int, *, seed: int = 20260) -> Path:
    from mbti_ray.data.builtin_corpus import builtin_rows

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["type", "posts", "id"])
        for row in builtin_rows(users=users, seed=seed):
            writer.writerow([row.mbti_type, "|||".join(row.posts), f"user-{row.number}"])
    return path
