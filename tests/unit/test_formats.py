"""One rule for all formats: the same rows, refusals and notes for every shape of columns."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.rows import Row
from mbti_ray.data.sources import check_readable, read_source, stream_rows
from mbti_ray.errors import DataError

pytestmark = pytest.mark.unit

CASES = Path(__file__).parents[3] / "shared" / "cases"


def as_csv(records, separator=","):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_lines(records):
    return "\n".join(map(json.dumps, records)).encode()


def as_zip(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__MACOSX/._" + name, b"")
        archive.writestr(name, content)
    return file.getvalue()


def as_parquet(records):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file)
    return file.getvalue()


def as_dataset(records, folder):
    import datasets

    datasets.Dataset.from_list(records).save_to_disk(str(folder))


FORMATS = {
    "a.csv": as_csv,
    "semicolons.csv": lambda records: as_csv(records, ";"),
    "tabs.csv": lambda records: as_csv(records, "\t"),
    "pipes.csv": lambda records: as_csv(records, "|"),
    "a.tsv": lambda records: as_csv(records, "\t"),
    "a.CSV.gz": lambda records: gzip.compress(as_csv(records)),
    "csv.zip": lambda records: as_zip("inner.csv", as_csv(records)),
    "a.jsonl": as_lines,
    "a.ndjson": as_lines,
    "lines.json": as_lines,
    "array.json": lambda records: json.dumps(records, indent=1).encode(),
    "a.jsonl.gz": lambda records: gzip.compress(as_lines(records)),
    "array.zip": lambda records: as_zip("b.json", json.dumps(records).encode()),
    "a.parquet": as_parquet,
    "parquet.zip": lambda records: as_zip("a.parquet", as_parquet(records)),
    "saved": None,
}


@pytest.fixture(params=FORMATS)
def write(request, tmp_path):
    """Writes records in one of the formats and gives its path as a source."""

    def _write(records):
        path = tmp_path / request.param
        if FORMATS[request.param] is None:
            as_dataset(records, path)
        else:
            path.write_bytes(FORMATS[request.param](records))
        return str(path)

    return _write


def cells(*rows, names=("type", "posts")):
    return [dict(zip(names, row, strict=True)) for row in rows]


def found(source, **options):
    rows = [row for _, row in stream_rows(source, DataConfig(**options)) if isinstance(row, Row)]
    return [(row.mbti_type, row.posts, row.author, row.id, row.shares) for row in rows]


def refusal(source, *, labeled=True, **options):
    with pytest.raises(DataError) as caught:
        check_readable(source, DataConfig(**options), labeled=labeled)
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    return message.removeprefix(f"{source}: ")


ONE = ("INTJ", ("a quiet book",), None, None, None)
TWO = ("ENFP", ("party", "again"), None, None, None)
SHARES = [("0.9", "0.25", "1", "0.5", "party"), ("0", "1", "0", "0.75", "a book")]

SHAPES = {
    "types and posts": (cells(("INTJ", "a quiet book"), ("ENFP", "party|||again")), [ONE, TWO]),
    "names in other case": (
        cells(("INTJ", "a quiet book"), ("ENFP", "party|||again"), names=(" Type", "TEXT ")),
        [ONE, TWO],
    ),
    "types in other case or with a suffix": (
        cells(("intj-a", "a quiet book"), (" Enfp-T ", "party|||again")),
        [ONE, TWO],
    ),
    "authors, ids and columns of no use": (
        cells(
            ("ann", "INTJ", "7", "3", "a book"),
            ("", "ENFP", "8", "", "party"),
            names=("author", "type", "likes", "id", "text"),
        ),
        [("INTJ", ("a book",), "ann", "3", None), ("ENFP", ("party",), None, None, None)],
    ),
    "four columns of 0 and 1": (
        cells(
            ("1", "1", "0", "0", "party"),
            ("0", "1", "1", "1", "a book"),
            names=("E", "N", "T", "J", "text"),
        ),
        [
            ("ENFP", ("party",), None, None, (1, 1, 0, 0)),
            ("INTJ", ("a book",), None, None, (0, 1, 1, 1)),
        ],
    ),
    "four columns of shares": (
        cells(*SHARES, names=("e", "n", "t", "j", "posts")),
        [
            ("ESTP", ("party",), None, None, (0.9, 0.25, 1, 0.5)),
            ("INFJ", ("a book",), None, None, (0, 1, 0, 0.75)),
        ],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_gives_the_same_rows(write, shape):
    records, expected = SHAPES[shape]
    source = write(records)
    assert found(source) == expected
    streamed = [row for _, row in stream_rows(source)]
    assert [(r.mbti_type, r.posts, r.author, r.id, r.shares) for r in streamed] == expected


REFUSED = {
    "two columns that differ in case": (
        cells(("INTJ", "ESFP", "a book"), names=("type", "Type", "posts")),
        'columns "type", "Type" could both be the type; allowed: data.columns.type=type or '
        "data.columns.type=Type",
    ),
    "posts and text": (
        cells(("INTJ", "a book", ""), ("ENFP", "", "party"), names=("type", "posts", "text")),
        'columns "posts", "text" could both be the text; allowed: data.columns.text=posts or '
        "data.columns.text=text",
    ),
    "two authors": (
        cells(("INTJ", "a", "b", "c"), names=("type", "author", "AUTHOR", "text")),
        'columns "author", "AUTHOR" could both be the author; allowed: data.columns.author=author '
        "or data.columns.author=AUTHOR",
    ),
    "no type": (
        cells(("INTJ", "a book", "3"), names=("kind", "posts", "likes")),
        'no column "type"; needed: type (or E, N, T and J), and posts or text; found: "kind", '
        '"posts", "likes"',
    ),
    "three of the four shares": (
        cells(("1", "0", "1", "a book"), names=("E", "N", "T", "posts")),
        'no column "type"; needed: type (or E, N, T and J), and posts or text; found: "E", "N", '
        '"T", "posts"',
    ),
    "a label by another name": (
        cells(("INTJ", "a book"), names=("mbti", "text")),
        'no column "type"; needed: type (or E, N, T and J), and posts or text; found: "mbti", '
        '"text"; "mbti" looks like the type: data.columns.type=mbti',
    ),
    "nothing by its usual name": (
        cells(("u1", "INTJ", "a book"), names=("username", "label", "comment")),
        'no column "posts" or "text"; needed: type (or E, N, T and J), and posts or text; found: '
        '"username", "label", "comment"; "comment" looks like the text: data.columns.text=comment; '
        '"label" looks like the type: data.columns.type=label; "username" looks like the author: '
        "data.columns.author=username",
    ),
    "a text by another name": (
        cells(("INTJ", "a book"), names=("type", "Body")),
        'no column "posts" or "text"; needed: type (or E, N, T and J), and posts or text; found: '
        '"type", "Body"; "Body" looks like the text: data.columns.text=Body',
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_every_format_refuses_with_the_same_words(write, shape):
    records, message = REFUSED[shape]
    assert refusal(write(records)) == message


def test_columns_can_be_named_and_the_others_are_listed(write):
    source = write(
        cells(
            ("INTJ", "ESFP", "u1", "a book", "x"),
            ("ENFP", "ESFP", "u2", "party", "y"),
            names=("mbti", "type", "username", "body", "posts"),
        )
    )
    options = DataConfig(columns={"type": "mbti", "text": "body"})
    read = read_source(source, options)
    assert [(row.mbti_type, row.posts, row.author) for row in read.rows] == [
        ("INTJ", ("a book",), None),
        ("ENFP", ("party",), None),
    ]
    assert read.notes[-1] == (
        'columns not used: "type", "username", "posts"; "username" looks like the author: '
        "data.columns.author=username"
    )
    for role in ("text", "type", "author", "id"):
        message = refusal(source, columns={"type": "mbti", "text": "body"} | {role: "bdy"})
        assert message.startswith(f'no column "bdy", which data.columns.{role} names; needed: ')


def test_a_column_that_differs_in_case_only_can_be_named(write):
    source = write(cells(("INTJ", "ESFP", "a book"), names=("type", "Type", "posts")))
    assert found(source, columns={"type": "Type"})[0][0] == "ESFP"
    assert found(source, columns={"type": "type"})[0][0] == "INTJ"


def test_input_to_predict_goes_by_the_same_rule(write):
    source = write(cells(("1", "a book"), ("2", "party|||again"), names=("ID", "Text")))
    rows = [row for _, row in stream_rows(source, labeled=False)]
    assert [(row.id, row.posts) for row in rows] == [("1", ("a book",)), ("2", ("party", "again"))]
    with pytest.raises(DataError, match="could both be the text"):
        list(stream_rows(write(cells(("a", "b"), names=("posts", "TEXT"))), labeled=False))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("1.5", "E is '1.5'; allowed: 0, 1 or a share between them"),
        ("high", "E is 'high'; allowed: 0, 1 or a share between them"),
        ("nan", "E is missing, and so is the type; needed: one of them"),
        ("0,6", "E is '0,6'; allowed: 0, 1 or a share between them; write 0.6"),
        ("1,5", "E is '1,5'; allowed: 0, 1 or a share between them"),
        ("True", "E is 'True'; allowed: 0, 1 or a share between them; write 1"),
    ],
)
def test_a_share_outside_of_0_to_1_is_a_bad_row(write, cell, reason):
    names = ("E", "N", "T", "J", "posts")
    source = write(cells(("1", "1", "1", "1", "a"), (cell, "1", "1", "1", "b"), names=names))
    read = read_source(source, DataConfig(max_bad_share=0.9))
    assert [row.posts for row in read.rows] == [("a",)]
    assert [bad.reason for bad in read.bad] == [reason]


def test_shares_of_one_half_are_the_negative_pole_and_said(write):
    source = write(cells(*SHARES, names=("E", "N", "T", "J", "posts")))
    assert read_source(source).notes[-1] == (
        "1 share of exactly 0.5 taken as the pole I, S, F or P"
    )


NAMES = ("type", "E", "N", "T", "J", "posts")
INVERTED = cells(
    *((t, "0.9", "0.2", "0.1", "0.3", "a") for t in ("INTJ", "INTJ", "INTP")), names=NAMES
)


def test_shares_that_contradict_the_types_are_not_used_unless_they_are_those_of_the_others(write):
    source = write(INVERTED)
    read = read_source(source)
    assert [(row.mbti_type, row.shares) for row in read.rows] == [
        ("INTJ", None),
        ("INTJ", None),
        ("INTP", None),
    ]
    assert read.notes[-1] == (
        "the shares in E, N, T, J contradict the type in 3 of 3 rows and are not used; if they "
        "are those of I, S, F, P: data.shares_of=ISFP"
    )
    inverted = read_source(source, DataConfig(shares_of="ISFP"))
    assert inverted.rows[0].shares == (0.1, 0.8, 0.9, 0.7)
    assert inverted.notes[-1].endswith("contradict the type in 1 of 3 rows; the type is the label")


def test_shares_that_are_missing_are_those_of_no_row_and_percentages_are_no_shares(write):
    names = ("type", "E", "N", "T", "J", "posts")
    rows = [
        ("INTJ", *given, "a book") for given in (["NaN"] * 4, [""] * 4, ["0.2", "1", "1", "0.9"])
    ]
    read = read_source(write(cells(*rows, names=names))).rows
    assert [row.shares for row in read] == [None, None, (0.2, 1, 1, 0.9)]
    some = read_source(write(cells(("INTJ", "0.2", "NA", "nan", "0.9", "a book"), names=names)))
    assert str(some.rows[0].shares) == "(0.2, nan, nan, 0.9)"
    source = write(cells(("", "0.2", "", "1", "0.9", "a book"), names=names))
    with pytest.raises(DataError, match="N is missing, and so is the type"):
        read_source(source)
    source = write(cells(("INTJ", "20", "95", "80", "100", "a book"), names=names))
    with pytest.raises(DataError, match=r"E is '20'; allowed: 0, 1 or .*; 20 % is 0\.2$"):
        read_source(source)


def test_a_type_that_agrees_with_the_shares_keeps_them(write):
    source = write(cells(("INTJ", "0.2", "0.8", "0.9", "0.5", "a"), names=NAMES))
    read = read_source(source)
    assert (read.rows[0].mbti_type, read.rows[0].shares) == ("INTJ", (0.2, 0.8, 0.9, 0.5))
    assert not any("shares" in note for note in read.notes)


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not on this machine")
def test_the_shared_cases_are_read_or_refused():
    def case(name, **options):
        return found(str(CASES / name), **options)

    assert case("array.json") == [ONE, ("ENFP", ("party",), None, None, None)]
    assert case("semi.csv") == [ONE, ("ENFP", ("party",), None, None, None)]
    assert refusal(str(CASES / "two_types.csv")).startswith('columns "type", "Type" could both be')
    assert {row[0] for row in case("two_types.csv", columns={"type": "Type"})} == {"ESFP"}
    assert refusal(str(CASES / "concat.csv")).startswith('columns "posts", "text" could both be')
    people = str(CASES.parent / "data" / "people_286.csv")
    for shares_of, count in (("ENTJ", 0), ("ISFP", 286)):
        rows = read_source(people, DataConfig(shares_of=shares_of)).rows
        assert sum(row.shares is not None for row in rows) == count
