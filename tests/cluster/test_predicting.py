"""Files through Ray Data on a real local Ray."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mbti_ray.data.sources import read_source
from mbti_ray.predict import main as predict
from mbti_ray.predictor import Predictor

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def test_a_file_is_predicted_in_its_order_with_its_ids(
    bundle: Path, small_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    assert predict([str(bundle), "--input", str(small_file), "--output", str(output)]) == 0
    rows = pq.read_table(output).to_pylist()
    with small_file.open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in rows] == [row["id"] for row in csv.DictReader(file)]
    source = read_source(str(small_file))
    expected = Predictor.load(bundle).predict([row.posts for row in source.rows], whole=True)
    assert [row["type"] for row in rows] == [p.mbti_type for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        given = [row[pole] for pole in "ENTJ"]
        assert given == pytest.approx(prediction.probabilities, abs=1e-5)


def test_an_unlabelled_file_is_predicted_and_its_bad_rows_are_said(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    posts = [json.dumps({"id": str(n), "text": f"a quiet evening {n}"}) for n in range(150)]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join([*posts[:7], '{"id": "7", "text": ', *posts[8:]]), "utf-8")
    output = tmp_path / "out.jsonl"
    assert predict([str(bundle), "--input", str(source), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [str(n) for n in range(150) if n != 7]
    assert "in.jsonl:8: left out" in capfd.readouterr().out
