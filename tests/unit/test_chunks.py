"""Chunks of a source: each row once, in order, and equal in every run."""

import json

import pytest

from mbti_ray.data.chunks import (
    ROW_SCHEMA,
    ChunkPlan,
    choose_chunk_chars,
    read_chunks,
    unnest_table,
)

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
    return [row for chunk in chunks for row in unnest_table(chunk.column("rows")).to_pylist()]


@pytest.mark.parametrize("unit", ["user", "post"])
@pytest.mark.parametrize("chunk_chars", [1, 2000, 10**9])
def test_every_row_is_in_one_chunk_in_order(source, unit, chunk_chars):
    chunks = chunks_of(source, unit=unit, chunk_chars=chunk_chars)
    rows = rows_in(chunks)
    users = [n for n in range(90) if n % 10 != 9]
    if unit == "user":
        assert [(row["id"], row["post"], len(row["posts"])) for row in rows] == [
            (f"u{n}", -1, 1 + n % 3) for n in users
        ]
    else:
        assert [(row["id"], row["post"], len(row["posts"])) for row in rows] == [
            (f"u{n}", k, 1) for n in users for k in range(1 + n % 3)
        ]
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)
    bad = [bad for chunk in chunks for bad in json.loads(chunk.column("bad")[0].as_py())]
    assert bad == [{"number": n, "reason": "no posts"} for n in range(10, 91, 10)]
    assert sum(chunk.column("records")[0].as_py() for chunk in chunks) == 90
    assert all(unnest_table(chunk.column("rows")).schema.equals(ROW_SCHEMA) for chunk in chunks)


def test_a_chunk_ends_at_its_number_of_characters_or_with_its_part(source):
    chunks = chunks_of(source, part_rows=25)
    places = [chunk.column("place")[0].as_py() for chunk in chunks]
    records = [chunk.column("records")[0].as_py() for chunk in chunks]
    assert {0, 25, 50, 75} < set(places)
    assert [p + n for p, n in zip(places, records, strict=True)] == [*places[1:], 90]
    for chunk in chunks:
        posts = [p for row in unnest_table(chunk.column("rows")).to_pylist() for p in row["posts"]]
        longest = max(map(len, posts), default=0)
        assert sum(map(len, posts)) <= 2000 + 3 * longest


def test_the_chunks_of_a_part_do_not_depend_on_what_is_done_already(source):
    whole = chunks_of(source, part_rows=25)
    for done in ({0}, {1, 2}, {3}, {0, 1, 2, 3}):
        rest = chunks_of(source, part_rows=25, done=frozenset(done))
        assert rest == [c for c in whole if c.column("place")[0].as_py() // 25 not in done]


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
