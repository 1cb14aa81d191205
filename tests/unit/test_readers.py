"""Reading files: separators, compression, arrays, and the messages about damaged ones."""

import gzip
import io
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.sources import read_source, stream_rows
from mbti_ray.errors import DataError

pytestmark = pytest.mark.unit


def as_zip(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        read_source(source, DataConfig(**options))
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    return message.removeprefix(f"{source}: ")


@pytest.fixture
def file(tmp_path):
    def _file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return _file


@pytest.mark.parametrize(
    ("name", "content", "mark"),
    [
        ("a.csv", "type;posts\nINTJ;a, b\n", "';'"),
        ("b.csv", '"type";"posts"\nINTJ;"a; b"\n', "';'"),
        ("c.csv", "mbti\tbody\tauthor\nINTJ\ta, b\t\n", "'\\t'"),
        ("d.csv", "id|type|text\n7|INTJ|a, b\n", "'|'"),
        ("e.tsv", "type,posts\nINTJ,a\n", "','"),
    ],
)
def test_a_guessed_separator_is_said(file, name, content, mark):
    names = {"columns": {"type": "mbti", "text": "body"}} if "mbti" in content else {}
    read = read_source(file(name, content), DataConfig(**names))
    assert [row.mbti_type for row in read.rows] == ["INTJ"]
    assert read.notes[0] == f"separator {mark}, guessed from the header (data.separator)"


@pytest.mark.parametrize("separator", ["^", ";", "tab"])
def test_a_given_separator_is_taken(file, separator):
    mark = "\t" if separator == "tab" else separator
    source = file("a.csv", f"type{mark}text\nINTJ{mark}a, b\n")
    read = read_source(source, DataConfig(separator=separator))
    assert (read.rows[0].posts, read.notes) == (("a, b",), [])


def test_a_wrong_separator_is_not_answered_with_the_only_column(file):
    message = refusal(file("a.csv", "type;posts\nINTJ;a\n"), separator=",")
    assert message.endswith("found: \"type;posts\"; to divide it at ';', set data.separator=';'")


def test_a_column_name_that_occurs_twice_is_refused_where_it_is_used(file):
    message = refusal(file("a.csv", "type,posts,posts\nINTJ,a,b\n"))
    assert message == 'column "posts" occurs twice; rename one'
    assert len(read_source(file("b.csv", "type,posts,x,x\nINTJ,a,b,c\n")).rows) == 1
    source = file("a.jsonl", '{"type": "INTJ", "type": "ESFP", "posts": "a"}\n')
    assert "a key occurs twice in one object" in refusal(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.gz",
            gzip.compress(b"type,posts\nINTJ,a\n", mtime=0),
            'cannot read "" files; allowed: .csv/',
        ),
        ("a.csv.gz", b"type,posts\nINTJ,a\n", "cannot be read: Not a gzipped file"),
        ("b.csv.gz", gzip.compress(b"type,posts\n" * 999, mtime=0)[:-9], "cannot be read: "),
        ("a.zip", b"no archive", "cannot be read: File is not a zip file"),
        ("b.zip", as_zip("a.xlsx", b"x"), 'cannot read ".xlsx" files; allowed: .csv/'),
        ("a.json", '[{"type": "INTJ"}, oops]', "not a JSON array: "),
        ("b.json", "[]", "has no rows"),
    ],
)
def test_what_cannot_be_read_is_one_line(file, name, content, message):
    assert refusal(file(name, content)).startswith(message)


def test_an_archive_of_several_files_is_refused(tmp_path):
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", b"type,posts\n")
        archive.writestr("b.csv", b"type,posts\n")
    assert refusal(str(path)) == "contains 2 files; allowed: a .zip with one file"


def test_elements_of_an_array_that_are_no_objects_are_bad_rows(file):
    source = file("a.json", '[{"type": "INTJ", "posts": ["a", "b"]}, 3, {"type": "ENFP"}]')
    read = read_source(source, DataConfig(max_bad_share=0.9))
    assert [(row.number, row.posts) for row in read.rows] == [(1, ("a", "b"))]
    assert [(bad.number, bad.reason) for bad in read.bad] == [
        (2, "JSON int where an object should be"),
        (3, "no posts"),
    ]


def test_numbers_that_parquet_made_floats_are_the_names_they_were(file):
    table = pa.table({"text": ["a", "b"], "author": [7.0, float("nan")], "id": [1.0, None]})
    path = file("a.parquet", b"")
    pq.write_table(table, path)
    rows = stream_rows(path, labeled=False)
    assert [(row.author, row.id) for _, row in rows] == [("7", "1"), (None, None)]
