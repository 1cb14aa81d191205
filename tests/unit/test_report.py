"""What Ray is told of an epoch."""

import pytest

from mbti_ray.on_ray.train.metrics import flat_report

pytestmark = pytest.mark.unit

RECORD = {
    "epoch": 2,
    "step": 40,
    "train": {"loss": 0.5, "acc_mean": 0.75},
    "seconds": 1.5,
    "skipped_steps": 1,
    "nonfinite_steps": 0,
    "speed": {"texts_s": 100.0},
    "val": {"loss": 0.6, "acc_mean": 0.7},
    "best": 0.6,
    "best_epoch": 2,
    "finished": True,
}


def test_an_epoch_s_report_has_the_scores_by_name_and_the_rest_without_nesting_but_speed():
    assert flat_report(RECORD) == {
        "loss": 0.6,
        "acc_mean": 0.7,
        "train_loss": 0.5,
        "train_acc_mean": 0.75,
        **{name: RECORD[name] for name in RECORD if name not in ("train", "val")},
    }
