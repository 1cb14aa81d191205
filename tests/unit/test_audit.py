"""The audit of a data source: each statistic against its definition, the page, and bad input."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbti_ray import audit as verb
from mbti_ray.config import load_run
from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.audit import audit
from mbti_ray.data.examples import build_examples, split_examples
from mbti_ray.data.mask import mask_text, type_mentions
from mbti_ray.data.rows import Row
from mbti_ray.data.sources import Source, read_source
from mbti_ray.data.stored_rows import store_rows
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit

KEYS = {
    "users", "posts", "majority", "names_a_type", "names_own_type", "most_mentioned_rule",
    "most_mentioned_rule_masked", "fingerprint", "rows", "bad_rows", "tokens", "pole_shares",
    "pos_weight", "type_shares", "repeats",
}  # fmt: skip
PIECES = st.sampled_from(
    (*TYPES, "intp", "Enfjs", "NTJ", "s", "words", "http://", "t.co/", ".", " ", "#", "é", "4")
)
POSTS = st.lists(st.lists(PIECES, min_size=1).map("".join), min_size=1, max_size=4)
USERS = st.lists(st.tuples(st.sampled_from(TYPES), POSTS), min_size=1, max_size=12)


def source_of(users, author=None):
    rows = [
        Row(number, mbti_type, tuple(posts), author)
        for number, (mbti_type, posts) in enumerate(users, start=2)
    ]
    return Source("made.csv", store_rows(rows, DataConfig()), [], 0)


def statistics(users, *overrides):
    return audit(load_run("quick", overrides), source_of(users))


@pytest.fixture(scope="module")
def builtin():
    return audit(load_run("quick"), read_source("builtin"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.csv"
    lines = [f"INTJ,post number {k} by an intj|||hello there" for k in range(110)]
    path.write_text("\n".join(["type,posts", *lines, "INXJ,words", ""]))
    return path


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("as an INTJ i think Entps and #isfj", ["INTJ", "ENTP", "ISFJ"]),
        ("teamINTJ myESFPproblems infp-ish 我是ISTJ人", ["INTJ", "ESFP", "INFP", "ISTJ"]),
        ("INTJ, infp and intj", ["INTJ", "INFP", "INTJ"]),
        ("the printjob of a guestpost", []),
        ("", []),
    ],
)
def test_type_mentions_are_the_words_that_masking_replaces_in_order(text, mentioned):
    assert type_mentions(text) == mentioned
    assert mask_text(text).count("type") == len(mentioned)


def test_rows_posts_authors_and_shares_are_counted():
    users = [("INTJ", ["a", "b"]), ("INTJ", ["c"]), ("ENFP", ["d"]), ("ISTJ", ["e"])]
    found = statistics(users)
    assert (found["rows"], found["users"], found["posts"], found["authors"]) == (4, 4, 5, 0)
    assert found["type_shares"] == {"INTJ": 0.5, "ISTJ": 0.25, "ENFP": 0.25}
    assert found["majority"] == 0.5
    assert found["pole_shares"] == {"E": 0.25, "N": 0.75, "T": 0.75, "J": 0.75}
    assert found["pos_weight"] == [3, 1 / 3, 1 / 3, 1 / 3]
    assert audit(load_run("quick"), source_of(users, "one author"))["authors"] == 1


def test_pos_weight_counts_posts_where_a_post_is_an_example_and_is_none_without_a_positive():
    users = [("INTJ", ["a", "b", "c"]), ("ISTJ", ["d"])]
    assert statistics(users)["pos_weight"] == [None, 1, 0, 0]
    assert statistics(users, "data.unit=post")["pos_weight"] == [None, 1 / 3, 0, 0]


def test_naming_a_type_and_naming_the_own_type_are_shares_of_users():
    found = statistics(
        [
            ("INTJ", ["nothing", "i am an intj, intj", "INTJ"]),
            ("INTJ", ["my wife is an ENFP"]),
            ("ENFP", ["nothing"]),
            ("ENFP", ["entp or enfp"]),
        ]
    )
    assert found["names_a_type"] == 0.75
    assert found["names_own_type"] == 0.5


@pytest.mark.parametrize(
    ("posts", "is_right"),
    [
        (["infp", "INTJ and intj"], True),
        (["infp infp", "INTJ"], False),
        (["intj", "infp"], True),
        (["infp", "intj"], False),
        (["none"], False),
    ],
)
def test_the_rule_gives_the_type_mentioned_most_then_first_then_the_majority(posts, is_right):
    others = [("ESFP", ["none"]), ("ESFP", ["none too"]), ("ESFP", ["an enfj"])]
    found = statistics([("INTJ", posts), *others])
    assert found["most_mentioned_rule"] == (2 + is_right) / 4
    assert found["most_mentioned_rule_masked"] == found["majority"] == 0.75


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(USERS)
def test_after_masking_the_rule_is_as_good_as_the_majority_and_no_better(users):
    found = statistics(users)
    assert found["most_mentioned_rule_masked"] == found["majority"]
    assert found["names_own_type"] <= found["names_a_type"]
    assert (found["repeats"]["across"] or 0) <= (found["repeats"]["near_across"] or 0)


def test_in_the_builtin_corpus_about_a_third_name_their_own_type(builtin):
    assert builtin["names_own_type"] == pytest.approx(1 / 3, abs=0.03)
    assert builtin["names_a_type"] == builtin["names_own_type"]
    assert builtin["majority"] == pytest.approx(1832 / 8675, abs=0.001)
    assert builtin["most_mentioned_rule"] == pytest.approx(
        builtin["names_own_type"] + (1 - builtin["names_own_type"]) * builtin["majority"], abs=0.02
    )
    assert builtin["most_mentioned_rule_masked"] == builtin["majority"]
    assert builtin["fingerprint"] == read_source("builtin").fingerprint


def test_every_length_is_in_one_bin_between_min_and_max(builtin):
    for unit, count in (("post", builtin["posts"]), ("user", builtin["users"])):
        lengths = builtin["tokens"][unit]
        bins = lengths["histogram"]
        assert sum(b["count"] for b in bins) == count
        assert (bins[0]["first"], bins[-1]["last"]) == (lengths["min"], lengths["max"])
        assert all(b["first"] == a["last"] + 1 for a, b in pairwise(bins))
        ranks = [lengths["min"], lengths["median"], lengths["p90"], lengths["p99"], lengths["max"]]
        assert ranks == sorted(ranks)


def test_tokens_are_counted_by_post_and_by_user_without_special_tokens():
    users = [("INTJ", [" ".join(["word"] * n)]) for n in range(1, 101)] + [("ENFP", ["a", "b c"])]
    found = statistics(users, "model.max_tokens=12")["tokens"]
    post = found["post"]
    assert (post["min"], post["median"], post["p90"], post["p99"], post["max"]) == (
        1,
        49,
        90,
        99,
        100,
    )
    assert (found["user"]["min"], found["user"]["max"]) == (1, 100)
    # [CLS] and [SEP] leave ten tokens of twelve.
    assert post["longer"] == 90 / 102
    assert found["user"]["longer"] == 90 / 101


def test_a_user_whose_posts_fill_a_window_exactly_is_not_longer():
    users = [("INTJ", ["one two three", "four five six"]), ("ENFP", ["one two three", "4 5 6 7"])]
    assert statistics(users, "model.max_tokens=9")["tokens"]["user"]["longer"] == 0.5


def test_duplicates_are_counted_as_written_with_their_posts():
    users = [("INTJ", ["same", "same", "Same"]), ("ENFP", ["same", "other"]), ("ENFP", ["other"])]
    repeats = statistics(users)["repeats"]
    assert (repeats["texts"], repeats["posts"]) == (2, 5)


@pytest.mark.parametrize(
    ("trained", "held_out", "across", "near_across"),
    [
        ("same post", "same post", 1, 1),
        ("same post", "Same, post!", 0, 1),
        ("see https://t.co/a", "see https://t.co/b", 0, 1),
        ("an intj says", "an ENFP, says", 0, 1),
        ("same post", "same posts", 0, 0),
        ("!", "?", 0, 0),
    ],
)
def test_texts_in_train_and_outside_of_it_are_counted(trained, held_out, across, near_across):
    """Authors decide the split, whatever they write."""
    config = load_run("quick")
    authors = [Row(k, "INTJ", (f"unlike {k}",), author=f"author {k}") for k in range(30)]
    examples = build_examples(config, store_rows(authors, config.data))
    in_train = {e.number for e in examples.read(split_examples(config, examples)["train"])}
    rows = [
        replace(row, posts=(*row.posts, trained if row.number in in_train else held_out))
        for row in authors
    ]
    repeats = audit(config, Source("made", store_rows(rows, config.data), [], 0))["repeats"]
    users = len(authors) - len(in_train)
    assert repeats["held_out"] == 2 * users
    assert (repeats["across"], repeats["near_across"]) == (across * users, near_across * users)


def test_a_split_by_post_has_no_text_or_near_duplicate_in_two_splits():
    users = [("INTJ", [f"hello {k % 20}", f"Hello, {k % 20}!"]) for k in range(60)]
    repeats = statistics(users, "data.unit=post", "data.split_by=post")["repeats"]
    assert (repeats["across"], repeats["near_across"]) == (0, 0)
    assert repeats["held_out"] > 0


def test_posts_without_letters_are_near_duplicates_only_if_they_are_equal():
    users = [("INTJ", ["!" * (k + 1)]) for k in range(30)]
    assert statistics(users)["repeats"]["near_across"] == 0


def test_too_few_users_to_split_still_have_statistics():
    found = statistics([("INTJ", ["a"]), ("ENFP", ["b"])])
    assert found["splits"] is None
    assert found["split_problem"].startswith("2 groups of rows cannot be split")
    assert found["repeats"]["across"] is None
    assert found["majority"] == 0.5


def test_json_is_the_last_line_and_has_the_statistics(file, capsys):
    assert verb.main([f"data.source={file}", "data.max_bad_share=0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) >= KEYS
    assert (found["rows"], found["users"], found["posts"]) == (111, 110, 220)
    (reason,) = found["bad_rows"]
    assert 'type "INXJ" has no letter of T/F' in reason
    assert found["bad_rows"][reason] == 1
    assert found["names_own_type"] == found["most_mentioned_rule"] == 1
    assert found["repeats"]["posts"] == 110


def test_the_terminal_shows_shares_and_bad_rows(file, capsys):
    assert verb.main([f"data.source={file}", "data.max_bad_share=0.1"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"name their own type in a post +100\.0 %", said)
    assert re.search(r'type "INXJ" has no letter of T/F.* 1\n', said)


def test_the_page_has_charts_and_loads_nothing(file, tmp_path, capsys):
    source = file.rename(tmp_path / "a<b>[c]&.csv")
    page = tmp_path / "page.html"
    argv = [f"data.source={source}", "data.max_bad_share=0.1", "--output", str(page)]
    assert verb.main(argv) == 0
    assert str(page) in capsys.readouterr().out.replace("\n", "")
    text = page.read_text("utf-8")
    # What follows is the script of the pages, which the policy of the page allows no request.
    text = text[: text.rindex("<script>")]
    assert "default-src" in text
    addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]*)", text)
    assert addresses == ["data:,"]
    assert not re.search(r"https?://|@import|<iframe|<img", text)
    assert text.count('<div class="chart">') == 3
    assert "prefers-color-scheme: dark" in text
    assert "a&lt;b&gt;[c]&amp;.csv" in text
    assert "<b>" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, page.name]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data.source={d}/none.csv"], "none.csv: no such file; allowed: builtin"),
        (["data.source={d}/data.csv", "data.max_bad_share=0"], "1 of 111 rows are bad"),
        (["data.sorce=x"], 'command line: unknown key "data.sorce"'),
        (["qick"], '"qick" is neither a preset nor a .yaml file'),
        (["model.encoder=./none"], "model.encoder=./none: no such folder"),
        (["--output", "x.htm"], 'unknown extension ".htm"; allowed: .html; did you mean'),
        (["--output", "{d}/none/x.html"], "none does not exist"),
        (["--output", "{d}/folder.html"], "folder.html: is a folder; allowed: a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, file, tmp_path, capsys):
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert verb.main([a.format(d=tmp_path) for a in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert says in said.err
    assert sorted(tmp_path.rglob("*")) == before
