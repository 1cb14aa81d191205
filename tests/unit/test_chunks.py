"""Chunks of a source: each row once, in order, and equal in every run."""

import json
from pathlib import Path

import pytest

from mbti_ray.config.data_section import DataConfig
from mbti_ray.data import users
from mbti_ray.data.chunks import ChunkPlan, choose_chunk_chars, read_chunks
from mbti_ray.data.users import count_joined, load_users
from mbti_ray.errors import DataError

pytestmark = pytest.mark.unit


@pytest.fixture
def source(tmp_path):
    """90 users with one to three posts; every tenth row is bad."""
    path = tmp_path / "in.jsonl"
    rows = [
        {
            "id": f"u{n}",
            "posts": [] if n % 10 == 9 else [f"post {k} " * (n + 1) for k in range(1 + n % 3)],
        }
        for n in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chunks_of(source, *, unit="user", chunk_chars=2000, **plan):
    return list(read_chunks(ChunkPlan(source, unit, chunk_chars, **plan)))


def rows_in(chunks):
    return [row for chunk in chunks for row in chunk.rows]


@pytest.mark.parametrize("unit", ["user", "post"])
@pytest.mark.parametrize("chunk_chars", [1, 2000, 10**9])
def test_every_row_is_in_one_chunk_in_order(source, unit, chunk_chars):
    chunks = chunks_of(source, unit=unit, chunk_chars=chunk_chars)
    rows = rows_in(chunks)
    good = [n for n in range(90) if n % 10 != 9]
    if unit == "user":
        assert [(row["id"], row["post"], len(row["posts"])) for row in rows] == [
            (f"u{n}", -1, 1 + n % 3) for n in good
        ]
    else:
        assert [(row["id"], row["post"], len(row["posts"])) for row in rows] == [
            (f"u{n}", k, 1) for n in good for k in range(1 + n % 3)
        ]
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)
    bad = [bad for chunk in chunks for bad in chunk.bad]
    assert bad == [{"number": n, "reason": "no posts"} for n in range(10, 91, 10)]
    assert sum(chunk.records for chunk in chunks) == 90


def test_a_chunk_ends_at_its_number_of_characters_or_with_its_part(source):
    chunks = chunks_of(source, part_rows=25)
    places = [chunk.place for chunk in chunks]
    records = [chunk.records for chunk in chunks]
    assert {0, 25, 50, 75} < set(places)
    assert [p + n for p, n in zip(places, records, strict=True)] == [*places[1:], 90]
    for chunk in chunks:
        posts = [p for row in chunk.rows for p in row["posts"]]
        longest = max(map(len, posts), default=0)
        assert sum(map(len, posts)) <= 2000 + 3 * longest


def test_the_chunks_of_a_part_do_not_depend_on_what_is_done_already(source):
    whole = chunks_of(source, part_rows=25)
    for done in ({0}, {1, 2}, {3}, {0, 1, 2, 3}):
        rest = chunks_of(source, part_rows=25, done=frozenset(done))
        assert rest == [c for c in whole if c.place // 25 not in done]


def test_chunks_are_large_but_a_small_file_has_several(tmp_path):
    sizes = {}
    for size in (0, 10_000, 1_000_000, 100_000_000):
        path = tmp_path / f"{size}.csv"
        with path.open("wb") as file:
            file.truncate(size)
        sizes[size] = choose_chunk_chars(str(path))
        expected = ChunkPlan(str(path), "user", sizes[size]).expected_chunks
        assert expected == (-(-size // sizes[size]) or None)
    assert sizes == {0: 2**15, 10_000: 2**15, 1_000_000: 62_500, 100_000_000: 2**17}
    assert choose_chunk_chars("builtin") == 2**15
    assert ChunkPlan("builtin", "user", 2**15).expected_chunks is None


@pytest.fixture
def by_author(tmp_path):
    """Rows of one post: two authors take turns, one has a single row, two are nobody."""
    path = tmp_path / "authors.jsonl"
    authors = ["ann", "bob", "ann", "cy", "[deleted]", "bob", "ann", "[deleted]", None]
    rows = [{"id": f"r{n}", "author": a, "text": f"post {n}"} for n, a in enumerate(authors)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("chunk_chars", [1, 10**9])
@pytest.mark.parametrize("done", [frozenset(), frozenset([0])])
def test_the_rows_of_an_author_are_one_user_as_in_training(by_author, chunk_chars, done):
    options = DataConfig(source=by_author)
    joined = count_joined(by_author, options, unit="user")
    assert joined == {"ann": 3, "bob": 2}
    chunks = chunks_of(by_author, chunk_chars=chunk_chars, joined=joined, part_rows=4, done=done)
    found = [(row["id"], [*row["posts"]]) for row in rows_in(chunks)]
    expected = [
        ("r3", ["post 3"]),
        ("r4", ["post 4"]),
        ("r1", ["post 1", "post 5"]),
        ("r0", ["post 0", "post 2", "post 6"]),
        ("r7", ["post 7"]),
        ("r8", ["post 8"]),
    ]
    # The author whose last row is in a part that is missing still has the rows of the other part.
    assert found == expected[1 if done else 0 :]
    lines = [
        json.loads(line) | {"type": "INTJ"} for line in Path(by_author).read_text().splitlines()
    ]
    Path(by_author).write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained = [[*row.posts] for row in load_users(options).rows]
    assert sorted(posts for _, posts in expected) == sorted(trained)


def test_rows_are_not_joined_where_training_would_not(by_author, tmp_path):
    assert count_joined(by_author, DataConfig(join_rows="never"), unit="user") == {}
    assert count_joined(by_author, DataConfig(), unit="post") == {}
    (tmp_path / "plain.csv").write_text("text,id\none,1\ntwo,2\n")
    assert count_joined(str(tmp_path / "plain.csv"), DataConfig(), unit="user") == {}
    path = tmp_path / "users.jsonl"
    row = json.dumps({"author": "ann", "posts": ["one", "two"]})
    path.write_text(f"{row}\n{row}\n")
    assert count_joined(str(path), DataConfig(), unit="user") == {}
    assert count_joined(str(path), DataConfig(join_rows="always"), unit="user") == {"ann": 2}


def test_authors_too_far_apart_are_refused_in_one_sentence(by_author, monkeypatch):
    monkeypatch.setattr(users, "_MAX_KEPT_CHARACTERS", 15)
    with pytest.raises(DataError, match=r"sort it by author, or set data\.join_rows=never"):
        chunks_of(by_author, joined={"ann": 3, "bob": 2})
