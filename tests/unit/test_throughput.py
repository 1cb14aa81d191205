"""The timer of a device that runs behind Python, with events in place of a clock."""

import pytest
import torch

from mbti_ray.engine.throughput import ThroughputTimer

pytestmark = pytest.mark.unit


class Event:
    """As a CUDA event: a time on the device's own clock, known once it is synchronized."""

    clock_ms = 0.0

    def __init__(self, enable_timing):
        assert enable_timing
        self.at = None

    def record(self):
        Event.clock_ms += 250.0
        self.at = Event.clock_ms

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def resets(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", devices.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    return devices


def test_phases_on_a_gpu_are_the_time_between_their_events(resets):
    timer = ThroughputTimer(torch.device("cuda"), 1)
    for name in ("forward", "backward", "backward"):
        with timer.phase(name):
            pass
    speed = timer.read(seconds=1.0)
    assert (speed["share_forward"], speed["share_backward"]) == (0.25, 0.5)
    assert speed["memory_mib"] == 3


def test_events_that_are_read_are_kept_no_longer(resets):
    timer = ThroughputTimer(torch.device("cuda"), 2)
    for _ in range(3):
        with timer.phase("forward"):
            pass
        timer.read_events()
        assert timer._spans == []
    assert timer.read(seconds=3.0)["share_forward"] == 0.25


def test_the_peak_of_an_earlier_run_in_the_process_is_forgotten(resets):
    device = torch.device("cuda", 1)
    ThroughputTimer(device, 1)
    assert resets == [device]
