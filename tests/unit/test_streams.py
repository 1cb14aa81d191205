"""Streaming rows: all of them in order, little memory, and what is checked before."""

import json
import os
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.sources import (
    BadRow,
    Row,
    check_readable,
    count_rows,
    fingerprint_of,
    read_source,
    stream_rows,
)
from mbti_ray.errors import DataError

pytestmark = pytest.mark.unit


@pytest.fixture
def write(tmp_path):
    """Writes a file into a folder of its own and gives its path as a source."""

    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return _write


@pytest.fixture
def mixed(tmp_path, write):
    """Good and bad rows in every kind of source."""
    import datasets

    posts = ["a|||b", None, "c", "|||", "itâ€™s", "d"]
    names = ["x", "y", None, "z", "", "w"]
    rows = [{"posts": p, "id": i, "type": "INTJ"} for p, i in zip(posts, names, strict=True)]
    lines = [json.dumps(row) for row in rows]
    cells = [f"{row['posts'] or ''},{row['id'] or ''},INTJ" for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    return [
        write("a.csv", "\n".join(["posts,id,type", *cells[:3], "1,2,3,4", *cells[3:]])),
        write("a.jsonl", "\n".join([*lines[:3], "{oops", *lines[3:]])),
        str(tmp_path / "a.parquet"),
        str(tmp_path / "saved"),
        "builtin",
    ]


def test_a_stream_has_all_rows_and_the_bad_ones_in_their_places(mixed):
    for path in mixed:
        source = read_source(path, DataConfig(max_bad_share=0.99))
        streamed = list(stream_rows(path))
        assert [place for place, _ in streamed] == list(range(len(streamed)))
        rows = [row for _, row in streamed if isinstance(row, Row)]
        assert [replace(row, id=None) for row in rows] == [*source.rows]
        assert [row for _, row in streamed if isinstance(row, BadRow)] == source.bad
        assert path == "builtin" or len(source.bad) >= 2
        assert [row.number for _, row in streamed] == sorted(row.number for _, row in streamed)
        assert count_rows(path) == (None if path.endswith("saved") else len(streamed))


def test_a_stream_skips_rows_that_are_not_wanted(mixed):
    for path in mixed:
        whole = list(stream_rows(path, labeled=False))
        odd = stream_rows(path, labeled=False, wanted=lambda place: place % 2 == 1)
        assert list(odd) == whole[1::2]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_stream_has_a_small_part_of_a_large_file_in_memory(write, name):
    text = "some words " * 40
    if name == "a.csv":
        path = write(name, "text\n" + f"{text}\n" * 8000)
    else:
        path = write(name, f'{{"text": "{text}"}}\n' * 8000)
    tracemalloc.start()
    try:
        rows = sum(1 for _ in stream_rows(path, labeled=False))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 8000
    assert peak < Path(path).stat().st_size / 10


def test_a_stream_yields_the_rows_before_a_damaged_place(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"text {n}" * 20 for n in range(6000)]})
    pq.write_table(table, path, row_group_size=1500, compression="none", use_dictionary=False)
    begin = pq.read_metadata(path).row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 60] = b"\xff" * 60
    path.write_bytes(content)
    rows = stream_rows(str(path), labeled=False)
    assert [row.number for _, row in islice(rows, 2048)] == list(range(1, 2049))
    with pytest.raises(DataError, match="cannot be read as Parquet: "):
        list(rows)


def test_a_source_without_a_usable_row_among_the_first_is_refused(write):
    check_readable(write("a.jsonl", '{"text": "a"}\n' + "{oops\n" * 2000))
    path = write("b.jsonl", "{oops\n" * 2000 + '{"text": "a"}')
    with pytest.raises(DataError) as caught:
        check_readable(path)
    assert str(caught.value).startswith(
        f"{path}: none of its first 1024 rows can be used; first: {path}:1: not one JSON object"
    )
    with pytest.raises(DataError, match='no column "posts"'):
        check_readable(write("c.jsonl", '{"txt": "a"}'))


def test_the_fingerprint_of_a_file_depends_on_its_bytes_only(tmp_path, mixed, write):
    first = write("one.csv", "text\na\n")
    made = fingerprint_of(first)
    os.utime(first, (1, 1))
    assert fingerprint_of(first) == fingerprint_of(write("two.csv", "text\na\n")) == made
    assert fingerprint_of(write("one.csv", "text\nb\n")) != made
    assert len({fingerprint_of(path)["sha256"] for path in mixed}) == len(mixed)
    with pytest.raises(DataError, match="allowed here: a file, a saved dataset folder"):
        fingerprint_of("nobody-here/mbti")
