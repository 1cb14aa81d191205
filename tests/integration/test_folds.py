"""data.folds: cross-validation by persons, and a bundle that is trained on all of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mbti_ray.config import RunConfig
from mbti_ray.errors import ConfigError
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.inference.folds import FoldResults
from mbti_ray.inference.manifest import DecisionRule
from mbti_ray.train import main as train_main

pytestmark = [pytest.mark.integration]
pytest.importorskip("sklearn", reason="needs the extra baselines")

Build = Callable[..., RunConfig]


def test_the_rule_of_folds_is_that_of_folds_with_the_reader_that_is_shipped() -> None:
    def fold(reader: str, temperature: float, threshold: float) -> dict[str, Any]:
        rule = DecisionRule(temperature=[temperature] * 4, thresholds=[threshold] * 4)
        return {"reader": reader, "best_epoch": 1, "calibration": rule.model_dump()}

    folds = [fold("tfidf", 1.0, 0.4), fold("windows", 9.0, 0.9), fold("tfidf", 4.0, 0.6)]
    results = FoldResults(folds, mock.Mock())
    assert results.reader == "tfidf"
    assert results.rule.temperature == pytest.approx([2.0] * 4)
    assert results.rule.thresholds == pytest.approx([0.5] * 4)


def train_folds(small_file: Path, home: Path, *more: str) -> int:
    words = [f"data.source={small_file}", "model.reader=tfidf", "data.folds=3", "name=folds"]
    return train_main([*words, f"storage={home}", "--json", *more])


def test_folds_predict_each_row_once_and_resume_with_those_that_are_missing(
    small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle is trained on all rows."""
    assert train_folds(small_file, tmp_path) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert scores["scorecard"]["rows"] == 313
    assert scores["scorecard"]["intervals"]["groups"] == 313
    assert all(95 < fold["test"]["rows"] < 115 for fold in scores["folds"])
    home = tmp_path / "folds"
    for number in (1, 2, 3):
        fold = json.loads((home / f"fold-{number}" / "scores.json").read_text("utf-8"))
        assert fold["test"] == scores["folds"][number - 1]["test"]
        assert (home / f"fold-{number}" / "bundle" / "bundle.json").exists()
    weighted = sum(f["test"]["acc_mean"] * f["test"]["rows"] for f in scores["folds"]) / 313
    assert scores["test"]["acc_mean"] == pytest.approx(weighted)
    assert evaluate_main([str(home), "--json"]) == 2
    assert "313 seen in training" in " ".join(capsys.readouterr().err.split())

    first = json.loads((home / "scores.json").read_text("utf-8"))
    kept = (home / "fold-1" / "scores.json").stat().st_mtime_ns
    for path in (home / "scores.json", home / "fold-2" / "scores.json"):
        path.unlink()
    assert train_folds(small_file, tmp_path, "--resume") == 0
    assert json.loads((home / "scores.json").read_text("utf-8")) == first
    assert (home / "fold-1" / "scores.json").stat().st_mtime_ns == kept


def test_folds_that_cannot_be_trained_are_refused_before_any_is(
    small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *lines = small_file.read_text("utf-8").splitlines()
    lines = [("I" if n == 5 else "E") + line[1:] for n, line in enumerate(lines)]
    path = tmp_path / "one.csv"
    path.write_text("\n".join([header, *lines]), "utf-8")
    assert train_folds(path, tmp_path) == 2
    assert "training rows E/I is E" in capsys.readouterr().err
    assert not (tmp_path / "folds").exists()


def test_one_fold_can_be_trained_alone(
    small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_folds(small_file, tmp_path, "data.fold=2", "scoring.resamples=0") == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert 95 < scores["scorecard"]["rows"] < 115
    assert not (tmp_path / "folds" / "fold-1").exists()


def test_more_folds_than_people_are_refused(quick: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fold=4 is none of data\.folds=3"):
        quick("data.folds=3", "data.fold=4")
