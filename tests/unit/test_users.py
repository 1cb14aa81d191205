"""Users: rows of an author joined, placeholder authors, and authors with more than one type."""

from pathlib import Path

import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.users import load_users
from mbti_ray.errors import DataError

pytestmark = pytest.mark.unit

CASES = Path(__file__).parents[3] / "shared" / "cases"
TWEETS = CASES.parent / "data" / "tweets_users.csv"


@pytest.fixture
def load(tmp_path):
    """Writes a CSV file and loads its users."""

    def _load(*lines, header="author,type,text", **options):
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *lines]), "utf-8")
        return load_users(DataConfig(source=str(path), **options))

    return _load


def test_rows_of_an_author_are_one_user_with_all_posts_in_order(load):
    source = load("ann,INTJ,one", "bob,ENFP,two", "ann,INTJ,three", ",ISTP,four", ",ISTP,five")
    assert [(row.number, row.author, row.posts) for row in source.rows] == [
        (2, "ann", ("one", "three")),
        (3, "bob", ("two",)),
        (5, None, ("four",)),
        (6, None, ("five",)),
    ]
    assert source.merged == 1
    assert source.notes == ["2 rows of 1 author are 1 user (data.join_rows)"]


def test_with_the_unit_post_rows_are_not_joined(load):
    source = load("ann,INTJ,one", "ann,INTJ,two", unit="post")
    assert [row.posts for row in source.rows] == [("one",), ("two",)]
    assert source.notes == []


@pytest.mark.parametrize(
    ("rows", "join_rows", "users"),
    [
        (("a,INTJ,1|||2", "a,INTJ,3|||4"), "auto", 2),
        (("a,INTJ,1|||2", "a,INTJ,3|||4"), "always", 1),
        (("a,INTJ,1|||2", "a,INTJ,3"), "auto", 1),
        (("a,INTJ,1", "a,INTJ,3"), "auto", 1),
        (("a,INTJ,1", "a,INTJ,3"), "never", 2),
    ],
)
def test_rows_that_are_users_already_stay_apart_unless_asked_for(load, rows, join_rows, users):
    source = load(*rows, join_rows=join_rows)
    assert len(source.rows) == users
    (note,) = source.notes
    assert note.startswith("2 rows of 1 author ")
    assert "data.join_rows" in note


@pytest.mark.parametrize(
    "name",
    [
        "[deleted]",
        "[removed]",
        "null",
        "NaN",
        "none",
        "Anonymous",
        "N/A",
        "unknown",
        "-",
        "DELETED",
        "NA",
        "<NA>",
        "#N/A",
    ],
)
def test_a_placeholder_is_no_author(load, name):
    source = load(f"{name},INTJ,one", f"{name},ENFP,two", "ann,ISTP,three")
    assert [row.author for row in source.rows] == [None, None, "ann"]
    assert source.notes == [f'rows of authors that are none, each a user of its own: "{name}" 2']


CONFLICTS = (
    *("ann,INTJ,one", "ann,INTJ,two", "ann,ENFP,three"),
    *("bob,ISTP,four", "bob,ESTP,five", "eve,ISFJ,six"),
)


def test_authors_with_several_types_are_refused_with_the_first_of_them(load):
    with pytest.raises(DataError) as caught:
        load(*CONFLICTS)
    assert str(caught.value).partition(": ")[2] == (
        'more than one type: 2 of 3 authors (first: "ann", INTJ, ENFP); allowed: '
        "data.conflicting_types=majority or data.conflicting_types=leave_out"
    )


@pytest.mark.parametrize("unit", ["user", "post"])
def test_the_majority_type_is_given_to_all_rows_and_ties_are_left_out(load, unit):
    source = load(*CONFLICTS, conflicting_types="majority", unit=unit)
    assert {(row.author, row.mbti_type) for row in source.rows} == {
        ("ann", "INTJ"),
        ("eve", "ISFJ"),
    }
    assert sum(len(row.posts) for row in source.rows) == 4
    assert source.notes[0] == (
        "more than one type: 2 of 3 authors; most frequent type taken for 1, left out 1"
    )


@pytest.mark.parametrize("choice", ["leave_out", "majority"])
def test_a_source_of_which_nobody_is_left_is_refused_with_the_reason(load, choice):
    with pytest.raises(DataError, match="no rows are left; more than one type: 1 of 1 author; "):
        load(*CONFLICTS[3:5], conflicting_types=choice)


def test_authors_with_several_types_can_be_left_out(load):
    source = load(*CONFLICTS, conflicting_types="leave_out")
    assert [row.author for row in source.rows] == ["eve"]
    assert source.merged == 5
    assert source.notes == [
        "more than one type: 2 of 3 authors; most frequent type taken for 0, left out 2"
    ]


def test_types_in_other_case_or_with_a_suffix_are_no_conflict(load):
    source = load("ann,INTJ,one", "ann,intj,two", "ann,INTJ-T,three", "ann,Intj-a,four")
    assert [(row.mbti_type, len(row.posts)) for row in source.rows] == [("INTJ", 4)]


def test_the_soft_label_of_a_user_is_the_mean_of_its_rows(load):
    rows = ("ann,0.2,0.6,1,0,one", "ann,0.4,0.8,1,0,two")
    (row,) = load(*rows, header="author,E,N,T,J,text").rows
    assert (row.mbti_type, row.shares) == ("INTP", pytest.approx((0.3, 0.7, 1, 0)))


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not on this machine")
def test_the_shared_case_of_three_authors_is_three_users():
    source = load_users(DataConfig(source=str(CASES / "authors.csv")))
    assert [(row.author, len(row.posts)) for row in source.rows] == [
        ("u1", 2),
        ("u2", 2),
        ("u3", 2),
    ]
    more = load_users(DataConfig(source=str(CASES / "authors_plus_one.csv")))
    assert (len(more.rows), len(more.rows) + more.merged) == (49, 241)


@pytest.mark.skipif(not TWEETS.exists(), reason=f"{TWEETS} is not on this machine")
def test_the_tweets_of_32_authors_stay_598_users_unless_asked_for():
    assert len(load_users(DataConfig(source=str(TWEETS))).rows) == 598
    assert len(load_users(DataConfig(source=str(TWEETS), join_rows="always")).rows) == 32
