"""Batch prediction on a real local Ray: every row once, in order, whatever is killed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from processes import descendants
from terminal import foreign_lines

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.chunks import ChunkPlan, choose_chunk_chars, read_chunks
from mbti_ray.data.sources import read_source
from mbti_ray.inference.predictor import Predictor
from mbti_ray.predict import main as predict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

# A part with this many rows holds several chunks of the smallest size.
PART_ROWS = 400


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,400 users of the built-in corpus without labels; rows 7 and 1,207 are bad."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    users = [list(row.posts) for row in builtin_rows(users=300)]
    rows = zip(range(2400), chain.from_iterable(repeat(users)), strict=False)
    lines = [json.dumps({"id": f"u{n}", "posts": posts[n % 5 :]}) for n, posts in rows]
    lines[6], lines[1206] = '{"id": "u6", "posts": []}', "{oops"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def whole(bundle: Path, large_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the large file from a command that was killed once, and then resumed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with command(bundle, large_file, output) as process:
        wait_for(lambda: parts_of(output), process)
        process.send_signal(signal.SIGKILL)
        assert_no_foreign_lines(process)
    before = parts_of(output)
    assert 1 <= len(before) < 6
    with redirect_stdout(io.StringIO()) as shown:
        assert predict(arguments(bundle, large_file, output)) == 0
    said = shown.getvalue()
    assert f"{len(before)} parts are already complete" in " ".join(said.split())
    result = json.loads(said.splitlines()[-1])
    assert (result["before"], result["parts"]) == (len(before), 6)
    assert (result["rows"], result["bad"]) == (2398, 2)
    assert result["rows_s"] > 0
    assert before.items() <= parts_of(output).items()
    return output


def arguments(bundle: Path, source: Path, output: Path) -> list[str]:
    place = ["--input", str(source), "--output", f"{output}/"]
    return [str(bundle), *place, "--json", "--part-rows", str(PART_ROWS)]


def assert_no_foreign_lines(process: subprocess.Popen[str]) -> None:
    """Ray's core calls each actor of Ray Data an error."""
    for shown in process.communicate(timeout=300):
        assert foreign_lines(shown) == []


def command(bundle: Path, source: Path, output: Path) -> subprocess.Popen[str]:
    """The command as a separate process on the session's Ray."""
    import ray

    return subprocess.Popen(
        [sys.executable, "-m", "mbti_ray.predict", *arguments(bundle, source, output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )


def parts_of(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("part-*.parquet"))}


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := happened():
            return found
        assert process.poll() is None, "the command ended too early"
        time.sleep(0.005)
    pytest.fail("timed out")


def assert_same(folder: Path, whole: Path) -> None:
    assert pq.read_table(folder).equals(pq.read_table(whole))
    assert list(parts_of(folder)) == list(parts_of(whole))
    assert (folder / "_bad_rows.jsonl").read_bytes() == (whole / "_bad_rows.jsonl").read_bytes()


def test_predictions_keep_the_order_and_ids_of_the_file_and_bad_rows_are_written_next_to_them(
    bundle: Path, small_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    users = list(read_source(str(small_file)).rows)
    lines = [json.dumps({"id": user.id, "posts": user.posts}) for user in users]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("\n".join([*lines[:7], '{"id": "7", "posts": ', *lines[7:]]), "utf-8")
    assert predict([str(bundle), "--input", str(source), "--output", str(output)]) == 0
    rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == [user.id for user in users]
    assert [row["number"] for row in rows] == [n for n in range(1, len(users) + 2) if n != 8]
    expected = Predictor.load(bundle).predict([user.posts for user in users], whole=True)
    for row, prediction in zip(rows, expected, strict=True):
        assert (row["type"], row["windows"]) == (prediction.type, prediction.windows)
        assert {p: row[p] for p in "ENTJ"} == pytest.approx(prediction.probabilities, abs=1e-5)
    assert "in.jsonl:8: left out" in capfd.readouterr().out
    (bad,) = [json.loads(s) for s in (tmp_path / "out.bad.jsonl").read_text().splitlines()]
    assert bad["number"] == 8
    assert bad["reason"].startswith("not one JSON object a line")
    assert {p.name for p in tmp_path.iterdir()} == {"in.jsonl", "out.parquet", "out.bad.jsonl"}


def test_a_killed_command_that_resumes_has_every_row_once_with_the_digits_of_its_chunk(
    bundle: Path, large_file: Path, whole: Path
) -> None:
    # As the workers had it: with other threads the last digits differ.
    torch.set_num_threads(1)
    predictor, expected = Predictor.load(bundle), []
    source = str(large_file)
    plan = ChunkPlan(source, "user", choose_chunk_chars(source), part_rows=PART_ROWS)
    for chunk in read_chunks(plan):
        answers = predictor.predict([row["posts"] for row in chunk.rows], whole=True)
        expected += [
            {"number": row["number"], "id": row["id"], "type": answer.type, **answer.probabilities}
            for row, answer in zip(chunk.rows, answers, strict=True)
        ]
    assert pq.read_table(whole).select(list(expected[0])).to_pylist() == expected
    assert [row["id"] for row in expected] == [f"u{n}" for n in range(2400) if n not in (6, 1206)]
    parts = [pq.read_metadata(part).num_rows for part in sorted(whole.glob("part-*"))]
    assert parts == [PART_ROWS - n for n in (1, 0, 0, 1, 0, 0)]
    lines = (whole / "_bad_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [7, 1207]


@pytest.mark.long
@pytest.mark.parametrize(("title", "parts"), [("ray::MapWorker", 1), ("ray::Read_ChunkSource", 0)])
def test_a_killed_worker_loses_and_duplicates_no_row(
    bundle: Path, large_file: Path, whole: Path, tmp_path: Path, title: str, parts: int
) -> None:
    output = tmp_path / "out"
    with command(bundle, large_file, output) as process:
        wait_for(lambda: len(parts_of(output)) >= parts, process)
        (worker, *_) = wait_for(lambda: descendants(title), process)
        os.kill(worker, signal.SIGKILL)
        assert len(parts_of(output)) < 6
        assert_no_foreign_lines(process)
    assert process.returncode == 0
    assert_same(output, whole)


def test_a_finished_folder_is_not_changed(
    bundle: Path, large_file: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = parts_of(whole)
    arguments = [str(bundle), "--input", str(large_file), "--output", str(whole), "--json"]
    assert predict(arguments) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["before"], result["rows"], result["bad"]) == (6, 2398, 2)
    assert parts_of(whole) == before


def test_another_input_bundle_or_part_size_is_refused(
    bundle: Path,
    small_file: Path,
    whole: Path,
    large_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(whole, output)
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps({**manifest, "temperature": [2.0] * 4}))
    before = parts_of(output)
    place = ["--output", f"{output}/"]
    for arguments, says in (
        ([str(bundle), "--input", str(small_file)], "was started with another input (bytes "),
        ([str(other), "--input", str(large_file)], "another bundle (temperature [1.0, "),
        (
            [str(bundle), "--input", str(large_file), "--part-rows", "9"],
            "with --part-rows 4",
        ),
    ):
        assert predict([*arguments, *place]) == 2
        assert says in capfd.readouterr().err.splitlines()[-1]
        assert parts_of(output) == before


def test_an_error_in_a_worker_is_one_line(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\nsome words\n")
    arguments = [str(bundle), "--input", str(source), "--output", str(tmp_path / "out.csv")]
    assert predict([*arguments, "serve.runtime=onnx"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert "has no export for serve.runtime=onnx; create it with" in said[-1]
    assert not [line for line in said if "Traceback" in line]
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


def test_fresh_starts_over_and_rows_of_one_author_are_predicted_as_one_user_as_in_training(
    bundle: Path, whole: Path, tmp_path: Path
) -> None:
    posts = [post for row in builtin_rows(users=4) for post in row.posts][:6]
    authors = ["ann", "bob", "ann", "cy", "bob", "ann"]
    rows = [{"author": a, "text": post} for a, post in zip(authors, posts, strict=True)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    shutil.copytree(whole, output)
    place = ["--input", str(source), "--output", f"{output}/"]
    assert predict([str(bundle), *place, "--fresh"]) == 0
    assert list(parts_of(output)) == ["part-000000.parquet"]
    found = pq.read_table(output).to_pylist()
    users = [[posts[3]], [posts[1], posts[4]], [posts[0], posts[2], posts[5]]]
    right = Predictor.load(bundle).predict(users, whole=True)
    assert [row["number"] for row in found] == [4, 2, 1]
    for row, prediction in zip(found, right, strict=True):
        expected = prediction.probabilities
        assert {p: row[p] for p in expected} == pytest.approx(expected, abs=1e-5)
