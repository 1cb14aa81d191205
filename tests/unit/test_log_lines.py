"""What the commands write where there is no terminal."""

import pytest

from mbti_ray.cli import progress

pytestmark = pytest.mark.unit


def test_a_log_has_a_line_now_and_then_in_place_of_a_bar(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar("trials", 40) as advance:
        for number in range(8):
            now += 11
            advance(1, f"{number} COMPLETE")
    written = capsys.readouterr()
    assert written.err.splitlines() == ["trials 3 of 40 2 COMPLETE", "trials 6 of 40 5 COMPLETE"]
    assert written.out == ""
