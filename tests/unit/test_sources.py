"""Reading every format, and the messages about sources that cannot be read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.sources import (
    Row,
    check_labeled,
    check_readable,
    hash_rows,
    read_source,
    stream_rows,
)
from mbti_ray.errors import DataError
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.unit

TWEETS = Path(__file__).parents[3] / "shared" / "data" / "tweets_users.csv"


@pytest.fixture
def write(tmp_path):
    """Writes a file into a folder of its own and gives its path as a source."""

    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return _write


def refusal(source, *, read=read_source):
    """The one line with which a source is refused."""
    with pytest.raises(DataError) as caught:
        read(source)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(source)
    return message.removeprefix(source)


def posts_of(source, **options):
    return [row.posts for row in read_source(source, **options).rows]


def test_a_csv_gives_types_posts_authors_and_ids_with_their_lines(write):
    path = write("a.csv", 'type,posts,author,id\nINTJ,one|||two,Ann,7\nenfp ,"a\nb",,\n\nISTP,c,B,')
    source = read_source(path)
    assert [row for _, row in stream_rows(path)] == [
        Row(2, "INTJ", ("one", "two"), "Ann", "7"),
        Row(3, "ENFP", ("a\nb",), None, None),
        Row(6, "ISTP", ("c",), "B", None),
    ]
    assert (source.name, source.bad, source.repaired) == (path, [], 0)


@pytest.mark.parametrize(
    "cell",
    [
        "\"'one|||two'\"",
        '"""one|||two"""',
        "\"'one|||two|||'\"",
        '"\'""one||| two""\'"',
        "one|||two",
    ],
)
def test_quotes_around_the_whole_cell_and_empty_posts_are_left_out(write, cell):
    assert posts_of(write("a.csv", f"type,posts\nINTJ,{cell}\n")) == [("one", "two")]


def test_column_names_may_be_in_any_case_and_order_and_follow_a_byte_order_mark(write):
    path = write("a.csv", b"\xef\xbb\xbfText , TYPE\nhello,infj\n")
    assert [*read_source(path).rows] == [Row(2, "INFJ", ("hello",))]


def test_a_cell_of_a_megabyte_is_read(write):
    assert len(posts_of(write("a.csv", "type,posts\nINTJ," + "a" * 1_000_000))[0][0]) == 1_000_000


def test_bytes_that_are_not_utf8_are_repaired_in_their_row_only(write):
    path = write("a.csv", b"type,posts\nINTJ,caf\xe9 it\x92s\nENFP,\xc3\xbcber\n")
    source = read_source(path)
    assert [row.posts for row in source.rows] == [("café it’s",), ("über",)]
    assert source.repaired == 1


def test_mojibake_is_repaired_and_counted(write):
    source = read_source(write("a.csv", "type,posts\nINTJ,ok|||itâ€™s\nENFP,it’s São Paulo\n"))
    assert [row.posts for row in source.rows] == [("ok", "it’s"), ("it’s São Paulo",)]
    assert source.repaired == 1


def test_a_csv_that_a_spreadsheet_wrote_as_utf16_is_read(write):
    assert posts_of(write("a.csv", "type,posts\nINTJ,über\n".encode("utf-16"))) == [("über",)]


def test_a_row_with_an_unknown_type_is_reported_with_its_line(write):
    path = write("data.csv", "type,posts\nINTJ,a\nINXJ,b\n")
    assert refusal(path) == (
        f": 1 of 2 rows are bad (data.max_bad_share allows 0.01); first: {path}:3: "
        'type "INXJ" has no letter of T/F in place 3; allowed: T, F'
    )


def test_bad_rows_within_the_allowed_share_are_kept_with_number_and_reason(write):
    path = write(
        "a.csv",
        'type,posts\nINTJ,a\nINT,b\nINTP,"\'|||\'"\nINFP\n,c\nINFJ,d,e\nENFP,"f" g\nENTP,h\n',
    )
    source = read_source(path, DataConfig(max_bad_share=0.8))
    assert [row.number for row in source.rows] == [2, 9]
    assert [(bad.number, bad.reason) for bad in source.bad] == [
        (3, 'type "INT" has 3 letters; allowed: 4, such as INTJ'),
        (4, "no posts"),
        (5, "1 cells where the header has 2"),
        (6, "no type"),
        (7, "3 cells where the header has 2"),
        (8, "line 8 begins no CSV row: ',' expected after '\"'"),
    ]


@pytest.mark.parametrize(
    "cell",
    ["INTJ (Architect)", "I N T J", "'INTJ'", "\uff29\uff2e\uff34\uff2a", "INTJ\u200b", "INTJ\0"],
)
def test_a_cell_that_names_one_type_is_refused_with_that_type(cell, write):
    assert refusal(write("a.csv", f"type,posts\n{cell},a\n")).endswith('; did you mean "INTJ"?')
    two = refusal(write("b.csv", f"type,posts\n{cell} or ENFP,a\n"))
    assert two.endswith("allowed: 4, such as INTJ")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_encoding_with_nul_bytes_is_refused_by_what_it_is(encoding, write):
    path = write("a.csv", "type,posts\nINTJ,a\n".encode(encoding))
    assert refusal(path).endswith("not UTF-8 (perhaps UTF-16 or UTF-32); save it as UTF-8")


def test_of_thousands_of_columns_the_first_ones_are_named(write):
    names = ",".join(f"c{k}" for k in range(5000))
    assert refusal(write("a.csv", f"{names}\n")).endswith(', "c29" and 4,970 more')
    (note,) = read_source(write("b.csv", f"type,posts,{names}\nINTJ,a{',' * 5000}\n")).notes
    assert note.endswith(', "c29" and 4,970 more')


@pytest.mark.parametrize("later", ["INFP,c\n", 'INFP,c\nENTP,"d, e"\n'])
def test_a_quote_that_is_never_closed_costs_its_own_row_only(later, write):
    rows = 'type,posts\nINTJ,"a\nb"\nINTP,"b\n' + later
    source = read_source(write("a.csv", rows), DataConfig(max_bad_share=0.9))
    (bad,) = source.bad
    assert bad.number == 4
    assert bad.reason.startswith("line 4 begins no CSV row: ")
    assert [row.number for row in source.rows] == [2, *range(5, 5 + later.count("\n"))]
    assert source.rows[1].posts == ("c",)


def test_unlabeled_rows_are_read_without_a_type_column_or_with_an_unknown_type(write):
    rows = stream_rows(write("a.csv", "id,text\n1,hello\n"), labeled=False)
    assert [*rows] == [(0, Row(2, None, ("hello",), None, "1"))]
    rows = stream_rows(write("b.csv", "type,text\n?,a\nintj,b\n"), labeled=False)
    assert [row.mbti_type for _, row in rows] == [None, "INTJ"]


def test_json_lines_have_posts_as_a_list_or_a_string(write):
    lines = [
        {"type": "intj", "posts": ["a", " ", "b|||c"], "author": 7},
        {"type": "ENFP", "posts": "'d|||e'", "id": "x", "likes": 3},
        {"type": "ISTP", "posts": "half an emoji \ud83d"},
    ]
    path = write("a.jsonl", "\n\n".join(json.dumps(line) for line in lines))
    source = read_source(path)
    assert [row for _, row in stream_rows(path)][:2] == [
        Row(1, "INTJ", ("a", "b|||c"), "7", None),
        Row(3, "ENFP", ("d", "e"), None, "x"),
    ]
    assert source.rows[2].posts == ("half an emoji \N{REPLACEMENT CHARACTER}",)
    assert (source.repaired, len(source.fingerprint)) == (1, 16)


def test_json_lines_that_cannot_be_used_are_reported_with_their_line(write):
    lines = ['{"type": "INTJ", "posts": "a"}', "{oops", "[1]", '{"type": 3, "posts": "a"}']
    lines += [
        '{"type": "INTJ", "posts": 4}',
        '{"type": "INTJ", "posts": [null]}',
        '{"type": "INTJ"}',
    ]
    source = read_source(write("a.json", "\n".join(lines)), DataConfig(max_bad_share=0.9))
    assert [bad.number for bad in source.bad] == [2, 3, 4, 5, 6, 7]
    reasons = [bad.reason for bad in source.bad]
    assert reasons[0].startswith("not one JSON object a line: ")
    assert reasons[1:] == [
        "JSON list where an object should be",
        "type is 3; allowed: four letters, such as INTJ",
        "posts are int; allowed: a string or a list of strings",
        "a post is NoneType; allowed: a string",
        "no posts",
    ]


def test_parquet_is_read_and_a_damaged_file_is_refused(tmp_path, write):
    path = str(tmp_path / "a.parquet")
    table = pa.table({"Type": ["INTJ", "enfp"], "posts": [["a", "b"], ["c"]], "blob": [b"x", b"y"]})
    pq.write_table(table, path)
    assert [*read_source(path).rows] == [Row(1, "INTJ", ("a", "b")), Row(2, "ENFP", ("c",))]
    assert refusal(write("b.parquet", "no")).startswith(": cannot be read as Parquet: ")


def test_a_saved_dataset_is_read_from_its_train_split_with_class_labels(tmp_path):
    import datasets

    features = datasets.Features(
        {"type": datasets.ClassLabel(names=["INTJ", "ENFP"]), "text": datasets.Value("string")}
    )
    data = datasets.Dataset.from_dict({"type": [1, 0], "text": ["a|||b", "c"]}, features=features)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "both"))
    datasets.DatasetDict({"one": data, "two": data}).save_to_disk(str(tmp_path / "neither"))
    data.select([1]).save_to_disk(str(tmp_path / "single"))
    assert [*read_source(str(tmp_path / "both")).rows] == [
        Row(1, "ENFP", ("a", "b")),
        Row(2, "INTJ", ("c",)),
    ]
    assert posts_of(str(tmp_path / "single")) == [("c",)]
    assert refusal(str(tmp_path / "neither")) == ': has no split "train"; found: "one", "two"'


def test_a_missing_column_is_named_with_all_columns_and_the_closest(write):
    for name, content in (
        ("a.csv", "typ,posts\nINTJ,a\n"),
        ("a.jsonl", '{"typ": "INTJ", "posts": "a"}'),
    ):
        assert refusal(write(name, content)) == (
            ': no column "type"; needed: type (or E, N, T and J), and posts or text; '
            'found: "typ", "posts"; did you mean "typ"?'
        )
    assert ': no column "posts"' in refusal(write("b.csv", "type,post\nINTJ,a\n"))
    assert ': no column "posts"' in refusal(write("c.csv", "INTJ;a\nINTP;b\n"), read=check_readable)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", ""), ("b.csv", "type,posts\n"), ("a.jsonl", "\n"), ("c.csv", b"\xef\xbb\xbf")],
)
def test_a_source_without_rows_is_refused(write, name, content):
    assert refusal(write(name, content)) == ": has no rows"


def test_a_missing_file_is_refused_with_the_closest_name(write):
    there = write("tweets.csv", "type,posts\nINTJ,a\n")
    missing = there.replace("tweets", "tweet")
    assert refusal(missing).startswith(": no such file; allowed: builtin, ")
    assert refusal(missing).endswith('; did you mean "tweets.csv"?')
    assert refusal("builtn").endswith('; did you mean "builtin"?')
    assert refusal("csv").startswith(": no such file; ")
    assert refusal("").startswith(": no such file; ")


def test_a_file_of_an_unknown_format_is_refused_with_the_known_ones(write):
    assert refusal(write("a.xlsx", "x")) == (
        ': cannot read ".xlsx" files; allowed: .csv/.tsv/.jsonl/.ndjson/.json/.parquet, also in '
        ".gz or .zip"
    )


def test_a_folder_that_is_not_a_dataset_is_refused_with_the_files_in_it(tmp_path, write):
    write("a.csv", "type,posts\nINTJ,a\n")
    assert refusal(str(tmp_path)) == (
        ": a folder that was not written by datasets' save_to_disk; name one of its files: a.csv"
    )
    # Before a command begins its work.
    for source in (tmp_path, ""):
        with pytest.raises(DataError):
            check_labeled(DataConfig(source=str(source)))


def test_a_hub_dataset_that_cannot_be_loaded_is_refused_in_one_line(monkeypatch):
    from huggingface_hub import constants

    # Without this the hub client tries a machine without a network for 24 s.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal("nobody-here/mbti")
    assert message.startswith(": no such file, and no such dataset can be loaded from the")


def test_the_fingerprint_depends_on_types_posts_authors_and_order_only():
    first, second = Row(2, "INTJ", ("a", "b"), "Ann", "1"), Row(3, "ENFP", ("c",))

    def print_of(*rows):
        return hash_rows(rows)

    base = print_of(first, second)
    assert base == print_of(Row(9, "INTJ", ("a", "b"), "Ann"), second)
    others = {
        print_of(second, first),
        print_of(first),
        print_of(Row(2, "INTP", ("a", "b"), "Ann"), second),
        print_of(Row(2, "INTJ", ("ab",), "Ann"), second),
        print_of(Row(2, "INTJ", ("a", "b"), None), second),
    }
    assert base not in others
    assert len(others) == 5


@pytest.mark.skipif(not TWEETS.exists(), reason=f"{TWEETS} is not on this machine")
def test_the_tweets_of_32_authors_are_read_whole():
    source = read_source(str(TWEETS))
    assert (len(source.rows), source.bad, source.repaired) == (598, [], 2)
    assert len({row.author for row in source.rows}) == 32
    assert all(labels_of(row.mbti_type or "") for row in source.rows)
