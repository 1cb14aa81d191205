"""What a TorchTrainer reports to the trial around it."""

from queue import Queue
from typing import Any

import pytest

from mbti_ray.on_ray.tune.trial import _EpochReports

pytestmark = pytest.mark.unit


def test_a_checkpoint_between_epochs_is_not_reported_to_tune() -> None:
    # Its constructor needs a Tune session.
    reports = _EpochReports.__new__(_EpochReports)
    queue: Queue[dict[str, Any]] = Queue()
    reports._training_actor_item_queue = queue
    for metrics in ({}, {"epoch": 1, "acc_mean": 0.5}):
        reports.after_report(None, [metrics, metrics], None)
    assert [*queue.queue] == [{"epoch": 1, "acc_mean": 0.5}]
