"""Freed memory is returned to the operating system."""

from pathlib import Path

import pytest

from mbti_ray.on_ray.malloc_trim import trim_memory

pytestmark = pytest.mark.unit


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_freed_memory_is_returned_although_later_blocks_are_still_in_use() -> None:
    # Too small to be mapped individually, so freeing every other block leaves holes.
    blocks = [bytearray(b"x") * 60_000 for _ in range(4000)]
    del blocks[::2]
    before = resident_mib()
    trim_memory()
    assert resident_mib() < before - 50
    assert len(blocks) == 2000
