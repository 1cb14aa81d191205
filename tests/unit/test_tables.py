"""Output tables and folders of parts: complete or absent, from one input, resumable."""

import json
import resource
import subprocess
import sys
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbti_ray.errors import ConfigError, RunError
from mbti_ray.storage.output_tables import (
    check_extension,
    is_folder_output,
    part_folder,
    write_json_lines,
    write_tables,
)

pytestmark = pytest.mark.unit

SCHEMA = pa.schema([("number", pa.int64()), ("id", pa.string())])
FIRST = {"bundle": {"id": "aaaa", "temperature": [1.0]}, "input": {"bytes": 10, "sha256": "f" * 64}}
SETTINGS = {"part_rows": 2, "chunk_chars": 100}


def table_of(*numbers):
    return pa.table({"number": numbers, "id": [f"id {n}" for n in numbers]}, schema=SCHEMA)


def opened(path, *, made_from=FIRST, settings=SETTINGS, fresh=False):
    return part_folder(path, SCHEMA, made_from=made_from, settings=settings, fresh=fresh)


def refusal(path, **options):
    """The one-line error for a folder, which is left unchanged."""
    before = content_hash(path)
    with pytest.raises(RunError) as caught, opened(path, **options):
        pass
    assert content_hash(path) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content_hash(path):
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@contextmanager
def no_file_over(size):
    """A limit on file size, which fails like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def started(tmp_path):
    """A folder with parts 0 and 2; the command was killed before it wrote part 1."""
    path = tmp_path / "out"
    with opened(path) as folder:
        folder.write(0, [table_of(1), table_of(2)], [])
        folder.write(2, [table_of(5)], [{"number": 6, "reason": "no posts"}])
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_tables_are_written_one_after_another(tmp_path, name):
    path = tmp_path / name
    write_tables(path, iter([table_of(1, 2), table_of(3)]), SCHEMA)
    read = {
        ".csv": lambda: [line.split(",")[0] for line in path.read_text().splitlines()[1:]],
        ".jsonl": lambda: [json.loads(line)["number"] for line in path.read_text().splitlines()],
        ".parquet": lambda: pq.read_table(path).column("number").to_pylist(),
    }
    assert [int(n) for n in read[path.suffix]()] == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_failed_write_is_reported_and_keeps_the_existing_file(tmp_path, name):
    path = tmp_path / name
    write_tables(path, [table_of(1)], SCHEMA)
    before = path.read_bytes()
    with no_file_over(10_000), pytest.raises(RunError, match=f"{name}: cannot be written .*space"):
        write_tables(path, [table_of(*range(100_000))], SCHEMA)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_error_while_writing_leaves_no_file(tmp_path):
    def tables():
        yield table_of(1)
        raise KeyError("no more")

    with pytest.raises(KeyError):
        write_tables(tmp_path / "a.csv", tables(), SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_without_records_there_is_no_file_and_an_existing_one_is_deleted(tmp_path):
    path = tmp_path / "a.jsonl"
    with write_json_lines(path) as add:
        add([{"number": 1}])
        add([{"number": 2}])
        assert not path.exists()
    assert path.read_text() == '{"number": 1}\n{"number": 2}\n'
    with write_json_lines(path) as add:
        add([])
    assert list(tmp_path.iterdir()) == []


def test_an_output_with_a_slash_or_no_extension_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").mkdir()
    assert [
        p for p in ("out", "out/", "a.csv/", "there.csv", "a.csv") if not is_folder_output(p)
    ] == ["a.csv"]


def test_an_unknown_extension_or_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'unknown extension "\.cvs"; .*did you mean "\.csv"'):
        check_extension(tmp_path / "a.cvs")
    with pytest.raises(ConfigError, match="none does not exist"):
        check_extension(tmp_path / "none" / "a.csv")
    with pytest.raises(ConfigError, match="none does not exist"), opened(tmp_path / "none" / "out"):
        pass


def test_a_resumed_folder_keeps_its_parts_and_settings_and_becomes_one_table(started):
    first = (started / "part-000000.parquet").stat().st_mtime_ns
    with opened(started, settings={"part_rows": 99, "chunk_chars": 1}) as folder:
        assert folder.settings == SETTINGS
        assert {n: part.rows for n, part in folder.done.items()} == {0: 2, 2: 1}
        assert folder.totals is None
        folder.write(1, [table_of(3)], [{"number": 4, "reason": "no posts"}])
        assert folder.finalize() == {"parts": 3, "rows": 4, "bad": 2}
    with opened(started) as folder:
        assert folder.totals == {"parts": 3, "rows": 4, "bad": 2}
    assert pq.read_table(started).column("number").to_pylist() == [1, 2, 3, 5]
    lines = (started / "_bad_rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [4, 6]
    assert (started / "part-000000.parquet").stat().st_mtime_ns == first


def test_a_part_without_rows_is_a_part(tmp_path):
    with opened(tmp_path / "out") as folder:
        folder.write(0, [], [{"number": 1, "reason": "no posts"}])
        assert folder.finalize() == {"parts": 1, "rows": 0, "bad": 1}
    assert pq.read_table(tmp_path / "out").schema.names == SCHEMA.names


def test_damaged_and_deleted_parts_are_computed_again(started):
    with opened(started) as folder:
        folder.write(1, [table_of(3)], [])
        folder.finalize()
    part = started / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    (started / "part-000002.parquet").unlink()
    with opened(started) as folder:
        assert list(folder.done) == [0]
        assert folder.totals is None


@pytest.mark.parametrize(
    ("made_from", "says"),
    [
        (
            {**FIRST, "bundle": {"id": "bbbb", "temperature": [1.0]}},
            "was started with another bundle (id aaaa, now bbbb); --fresh deletes its parts first",
        ),
        (
            {**FIRST, "bundle": {"id": "aaaa", "temperature": [1.5]}},
            "was started with another bundle (temperature [1.0], now [1.5])",
        ),
        (
            {**FIRST, "input": {"bytes": 11, "sha256": "e" * 64}},
            "another input (bytes 10, now 11; sha256 ffffffffffff…, now eeeeeeeeeeee…)",
        ),
    ],
)
def test_a_folder_started_from_another_bundle_or_input_is_refused(started, made_from, says):
    assert says in refusal(started, made_from=made_from)


def test_fresh_deletes_the_parts_and_nothing_else(started):
    (started / "notes.txt").write_text("mine")
    other = {**FIRST, "input": {"bytes": 11, "sha256": "e" * 64}}
    with opened(started, made_from=other, settings={"part_rows": 7}, fresh=True) as folder:
        assert folder.done == {}
        assert folder.settings == {"part_rows": 7}
        assert sorted(p.name for p in started.iterdir()) == ["_manifest.json", "notes.txt"]
    assert "another input" in refusal(started)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_other_files_is_left_unchanged(tmp_path, fresh):
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "part-000000.parquet").write_text("not ours")
    assert "contains files but no _manifest.json" in refusal(path, fresh=fresh)
    (path / "_manifest.json").write_text('{"made_by": "somebody else"}')
    assert "is damaged or not written by mbti_ray predict" in refusal(path, fresh=fresh)
    assert "is a file; allowed for parts: a folder" in refusal(
        path / "part-000000.parquet", fresh=fresh
    )


def test_a_folder_locked_by_another_process_is_refused(started):
    holds = (
        "import sys, pathlib, pyarrow as pa\n"
        "from mbti_ray.storage.output_tables import part_folder\n"
        f"with part_folder(pathlib.Path({str(started)!r}), pa.schema([]), made_from={FIRST!r},\n"
        "                 settings={}, fresh=False):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert "another command is writing to it" in refusal(started)
        other.kill()
    with opened(started) as folder:
        assert list(folder.done) == [0, 2]


def test_a_part_that_cannot_be_written_keeps_the_others(started):
    with (
        opened(started) as folder,
        no_file_over(4_000),
        pytest.raises(RunError, match=r"part-000001\.parquet: cannot be written"),
    ):
        folder.write(1, [table_of(*range(100_000))], [])
    assert sorted(p.name for p in started.iterdir()) == [
        "_manifest.json",
        "part-000000.parquet",
        "part-000002.parquet",
    ]
