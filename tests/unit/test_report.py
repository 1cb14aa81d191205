"""The record that a worker reports to Ray comes back from Ray as it was."""

import json

import pytest

from mbti_ray.on_ray.report import Report

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


def through_ray(report):
    """As Tune hands a result on: as JSON, with fields of its own."""
    return Report.from_ray(json.loads(json.dumps(report.to_ray() | {"pid": 7, "hostname": "h"})))


def test_an_epoch_s_report_has_the_scores_by_name_and_the_rest_without_nesting_but_speed():
    flat = Report.of_epoch(RECORD).to_ray()
    assert flat == {
        "loss": 0.6,
        "acc_mean": 0.7,
        "train_loss": 0.5,
        "train_acc_mean": 0.75,
        **{name: RECORD[name] for name in RECORD if name not in ("train", "val")},
    }


def test_what_decides_about_a_trial_comes_back_from_ray():
    there = through_ray(Report.of_epoch(RECORD))
    assert (there.epoch, there.best, there.best_epoch, there.finished) == (2, 0.6, 2, True)
    assert there.scores["acc_mean"] == 0.7
    assert there.failure is None
    assert there.seed_scores is None


def test_a_failure_and_the_scores_of_seeds_come_back_from_ray():
    failed = through_ray(Report(epoch=0, seconds=0.0, scores={"loss": 9.0}, failure="diverged"))
    assert failed.failure == "diverged"
    assert not failed.finished
    seeds = [[0.5, 0.25], [0.75, 0.5]]
    ended = Report(epoch=3, seconds=2.0, scores={}, finished=True, seed_scores=seeds)
    assert through_ray(ended).seed_scores == seeds
