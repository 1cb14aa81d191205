"""Batch prediction on a real local Ray: every row once, in order, whatever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from terminal import foreign_lines

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.sources import read_source
from mbti_ray.inference.predictor import Predictor
from mbti_ray.predict import main as predict

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

# A part with this many rows holds several chunks of the smallest size.
PART_ROWS = 400


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6,000 users of the built-in corpus without labels; rows 7 and 2,407 are bad."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    users = [list(row.posts) for row in builtin_rows(users=300)]
    rows = zip(range(6000), chain.from_iterable(repeat(users)), strict=False)
    lines = [json.dumps({"id": f"u{n}", "posts": posts[n % 5 :]}) for n, posts in rows]
    lines[6], lines[2406] = '{"id": "u6", "posts": []}', "{oops"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def whole(bundle: Path, large_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of the large file from a command that runs undisturbed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with command(bundle, large_file, output) as process:
        said, shown = process.communicate(timeout=300)
    assert process.returncode == 0
    # Ray's core calls each actor of Ray Data an error.
    assert foreign_lines(said) == foreign_lines(shown) == []
    result = json.loads(said.splitlines()[-1])
    assert (result["rows"], result["bad"], result["parts"]) == (5998, 2, 15)
    assert result["rows_s"] == pytest.approx(result["rows"] / result["seconds"])
    return output


def command(bundle: Path, source: Path, output: Path) -> subprocess.Popen[str]:
    """The command as a separate process on the session's Ray."""
    import ray

    arguments = [str(bundle), "--input", str(source), "--output", f"{output}/", "--json"]
    arguments += ["--part-rows", str(PART_ROWS)]
    return subprocess.Popen(
        [sys.executable, "-m", "mbti_ray.predict", *arguments],
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


def workers(title: str) -> Iterator[int]:
    """Processes of the session's Ray with this text in their title."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if title in (folder / "cmdline").read_text() and os.getpid() in ancestors(folder.name):
                yield int(folder.name)


def ancestors(pid: str) -> Iterator[int]:
    while pid != "0":
        pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        yield int(pid)


def assert_same(folder: Path, whole: Path) -> None:
    assert pq.read_table(folder).equals(pq.read_table(whole))
    assert list(parts_of(folder)) == list(parts_of(whole))
    assert (folder / "_bad_rows.jsonl").read_bytes() == (whole / "_bad_rows.jsonl").read_bytes()


def test_predictions_keep_the_order_and_ids_of_the_file(
    bundle: Path, small_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    assert predict([str(bundle), "--input", str(small_file), "--output", str(output)]) == 0
    rows = pq.read_table(output).to_pylist()
    source = read_source(str(small_file))
    assert [row["id"] for row in rows] == [row.id for row in source.rows]
    assert [row["number"] for row in rows] == [row.number for row in source.rows]
    assert_predicted(bundle, rows, [row.posts for row in source.rows])
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def assert_predicted(bundle: Path, rows: list[dict[str, Any]], users: list[Any]) -> None:
    expected = Predictor.load(bundle).predict(users, whole=True)
    assert [row["type"] for row in rows] == [p.type for p in expected]
    assert [row["windows"] for row in rows] == [p.windows for p in expected]
    for row, prediction in zip(rows, expected, strict=True):
        given = {pole: row[pole] for pole in "ENTJ"}
        assert given == pytest.approx(prediction.probabilities, abs=1e-5)


def test_bad_rows_are_printed_and_written_next_to_the_output(
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
    (bad,) = [json.loads(s) for s in (tmp_path / "out.bad.jsonl").read_text().splitlines()]
    assert bad["number"] == 8
    assert bad["reason"].startswith("not one JSON object a line")


def test_parts_form_one_ordered_table_and_match_the_predictor(
    bundle: Path, large_file: Path, whole: Path
) -> None:
    rows = pq.read_table(whole).to_pylist()
    source = read_source(str(large_file), labelled=False)
    assert [row["id"] for row in rows] == [row.id for row in source.rows]
    assert_predicted(bundle, rows, [row.posts for row in source.rows])
    assert [pq.read_metadata(p).num_rows for p in sorted(whole.glob("part-*"))] == [
        *([PART_ROWS - 1] + [PART_ROWS] * 5) * 2,
        *[PART_ROWS] * 3,
    ]
    lines = (whole / "_bad_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [7, 2407]


def test_a_killed_command_resumes_and_keeps_its_complete_parts(
    bundle: Path, large_file: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with command(bundle, large_file, output) as process:
        wait_for(lambda: parts_of(output), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = parts_of(output)
    assert 1 <= len(before) < 15
    with command(bundle, large_file, output) as process:
        said, shown = process.communicate(timeout=300)
    assert process.returncode == 0
    # Ray's core calls each actor of Ray Data an error.
    assert foreign_lines(said) == foreign_lines(shown) == []
    assert f"{len(before)} parts are already complete" in " ".join(said.split())
    result = json.loads(said.splitlines()[-1])
    assert (result["before"], result["parts"], result["rows"]) == (len(before), 15, 5998)
    assert before.items() <= parts_of(output).items()
    assert_same(output, whole)


@pytest.mark.long
@pytest.mark.parametrize(("title", "parts"), [("MapWorker", 1), ("Read_ChunkSource", 0)])
def test_a_killed_worker_loses_and_duplicates_no_row(
    bundle: Path, large_file: Path, whole: Path, tmp_path: Path, title: str, parts: int
) -> None:
    output = tmp_path / "out"
    with command(bundle, large_file, output) as process:
        wait_for(lambda: len(parts_of(output)) >= parts, process)
        (worker, *_) = wait_for(lambda: list(workers(title)), process)
        os.kill(worker, signal.SIGKILL)
        assert len(parts_of(output)) < 15
        assert process.wait(300) == 0
    assert_same(output, whole)


def test_a_finished_folder_is_not_changed(
    bundle: Path, large_file: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = parts_of(whole)
    arguments = [str(bundle), "--input", str(large_file), "--output", str(whole), "--json"]
    assert predict(arguments) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["before"], result["rows"], result["bad"]) == (15, 5998, 2)
    assert parts_of(whole) == before


def test_another_input_bundle_or_part_size_is_refused_and_fresh_starts_over(
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
        error = capfd.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert parts_of(output) == before
    assert predict([str(bundle), "--input", str(small_file), *place, "--fresh"]) == 0
    assert list(parts_of(output)) == ["part-000000.parquet"]
    assert pq.read_table(output).num_rows == 313


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


def test_rows_of_one_author_are_predicted_as_one_user_as_in_training(
    bundle: Path, tmp_path: Path
) -> None:
    posts = [post for row in builtin_rows(users=4) for post in row.posts][:6]
    authors = ["ann", "bob", "ann", "cy", "bob", "ann"]
    rows = [{"author": a, "text": post} for a, post in zip(authors, posts, strict=True)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert predict([str(bundle), "--input", str(source), "--output", str(output)]) == 0
    found = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    whole = [[posts[3]], [posts[1], posts[4]], [posts[0], posts[2], posts[5]]]
    right = Predictor.load(bundle).predict(whole, whole=True)
    assert [row["number"] for row in found] == [4, 2, 1]
    for row, prediction in zip(found, right, strict=True):
        expected = prediction.probabilities
        assert {p: row[p] for p in expected} == pytest.approx(expected, abs=1e-5)
