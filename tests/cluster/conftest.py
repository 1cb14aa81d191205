"""What the tests with Ray share: small disks, doing something once another happened, a long run."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from long_run import SETTINGS, Undisturbed

from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker


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
def fill() -> Callable[[Path, int], None]:
    """Fills the disk of a folder with a file, but for so many KiB."""

    def write(place: Path, kib_left: int) -> None:
        free = shutil.disk_usage(place).free - 1024 * kib_left
        # What runs there may have written in between.
        with suppress(OSError):
            (place / "filler").write_bytes(bytes(max(free, 0)))

    return write


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


@pytest.fixture(scope="session")
def undisturbed(
    quick: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    """The long run, undisturbed and without Ray."""
    torch.set_num_threads(1)
    config = quick(*SETTINGS)
    data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
    worker = Worker()
    return Undisturbed(run(config, data, worker).model.state_dict(), worker.records)
