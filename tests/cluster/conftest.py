"""What the tests with Ray share: a bundle, small disks, doing something once another happened."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mbti_ray.bundle import write_bundle
from mbti_ray.config import RunConfig
from mbti_ray.data.prepare import prepare_dataset
from mbti_ray.engine.fit import run
from mbti_ray.engine.worker import Worker
from mbti_ray.predictor import golden_logits


@pytest.fixture(scope="session")
def bundle(quick: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = quick("fit.epochs=1")
    data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
    outcome = run(config, data, Worker())
    folder = tmp_path_factory.mktemp("run") / "bundle"
    write_bundle(
        folder,
        config=config,
        model=outcome.model,
        tokenizer=data.tokenizer,
        facts=data.facts,
        scores={"val": outcome.val},
        golden_logits=golden_logits,
    )
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many MiB."""
    places: list[Path] = []

    def make(mib: int) -> Path:
        place = tmp_path / f"disk-{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        places.append(place)
        return place

    yield make
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.fixture
def when() -> Callable[[Callable[[], bool], Callable[[], None]], threading.Thread]:
    """Does something once, in a thread, as soon as something else has happened."""

    def start(happened: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
        def wait() -> None:
            while not happened():
                time.sleep(0.02)
            then()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    return start
