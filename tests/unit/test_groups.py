"""Groups: what shares a person or a text is in one split, whatever `data.split_by` says."""

import csv
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbti_ray.config import load_run
from mbti_ray.config.data_section import DataConfig
from mbti_ray.data.audit import audit
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.examples import (
    build_examples,
    count_shared,
    split_examples,
)
from mbti_ray.data.rows import Row
from mbti_ray.data.split import text_key
from mbti_ray.data.stored_rows import store_rows
from mbti_ray.data.users import load_users
from mbti_ray.errors import DataError
from mbti_ray.reports.wording import caveats
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.unit

CASES = Path(__file__).parents[3] / "shared" / "cases"
WIDE = ("data.val_share=0.25", "data.test_share=0.25")
# Each is long enough to be no coincidence, and all differ in their letters.
SENTENCES = [f"{word} is what I read about on the train every single morning" for word in (
    "history", "cooking", "physics", "gardening", "chess", "opera", "sailing", "weather",
)]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes rows as a CSV file and gives the config that reads it."""

    def _write(rows, *overrides, header=("author", "type", "text")):
        path = tmp_path / "rows.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return load_run("quick", [f"data.source={path}", *overrides])

    return _write


class Members(dict):
    """The examples of a source by split; with all groups, and what `count_shared` counts."""


def split_of(config):
    source = load_users(config.data)
    examples = build_examples(config, source.rows)
    indices = split_examples(config, examples)
    members = Members({name: [*examples.read(part)] for name, part in indices.items()})
    members.shared = count_shared(examples, indices)
    members.groups = {*examples.group.tolist()}
    return members


def held_out_in_train(members):
    """Posts outside of train whose letters and digits are those of a post in train."""

    def words(text):
        return re.sub(r"[\W_]", "", text.lower()) or text

    trained = {words(text) for e in members["train"] for text in e.texts}
    return [t for s in ("val", "test") for e in members[s] for t in e.texts if words(t) in trained]


def by_author(texts, count, change=lambda text, k: text):
    """Rows of `count` authors who wrote a text each; texts of one kind have one type."""
    return [
        (f"u{k}", TYPES[k % len(texts) % 16], change(texts[k % len(texts)], k))
        for k in range(count)
    ]


@pytest.mark.parametrize("unit", ["user", "post"])
@pytest.mark.parametrize("split_by", ["auto", "author", "user"])
def test_rows_of_one_text_are_in_one_split_whatever_split_by_says(write, unit, split_by):
    rows = by_author(SENTENCES[:6], 72)
    members = split_of(write(rows, f"data.unit={unit}", f"data.split_by={split_by}", *WIDE))
    assert held_out_in_train(members) == []
    assert all(members.values())
    assert members.shared == (sum(len(members[s]) for s in ("val", "test")), 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda text, k: text.upper() if k % 2 else text,
        lambda text, k: f"{text}{'!' * (k % 5)}",
        lambda text, k: text.replace(" ", "  " if k % 2 else " - "),
        lambda text, k: f"{text} https://t.co/{k:x}",
        lambda text, k: f"{text}, says an {TYPES[k % 16].lower()}",
        lambda text, k: f"\u200b{text}\ufeff" if k % 2 else text,
        lambda text, k: text.replace("about", "about\u00a0") if k % 3 else text,
    ],
    ids=["case", "punctuation", "spaces", "link", "type word", "invisible", "no-break space"],
)
def test_texts_that_are_read_alike_are_one_text(write, change):
    members = split_of(write(by_author(SENTENCES[:6], 60, change), *WIDE))
    assert held_out_in_train(members) == []
    assert len(members.groups) == 6


def test_short_texts_link_people_who_wrote_nothing_else(write):
    rows = by_author([f"party {k}" for k in "abcdef"], 48)
    assert held_out_in_train(split_of(write(rows, *WIDE))) == []


def test_a_greeting_that_everybody_writes_does_not_join_those_with_texts_of_their_own(write):
    rows = []
    for k in range(40):
        rows += [(f"u{k}", TYPES[k % 16], "thank you!"), (f"u{k}", TYPES[k % 16], f"{k} own words")]
    members = split_of(write(rows))
    assert len(members.groups) == 40
    held_out, shared = members.shared
    assert (held_out, shared) == (2 * sum(len(members[s]) for s in ("val", "test")), held_out // 2)
    assert len(held_out_in_train(members)) == shared


def test_a_copied_post_joins_even_people_with_texts_of_their_own():
    copied = "a story of more than sixty-four letters that somebody posts and somebody else repeats"
    texts = [(f"own {k}", "hi", copied if k in (3, 17) else f"other {k}") for k in range(30)]
    rows = [Row(k, TYPES[k % 16], each, f"author {k:02}") for k, each in enumerate(texts)]
    examples = build_examples(load_run("quick", ["data.source=x"]), store_rows(rows, DataConfig()))
    groups = [examples.groups[group] for group in examples.group]
    assert groups[3] == groups[17] == "author:author 03"
    assert len(set(groups)) == 29


def test_a_signature_below_every_post_does_not_join_all_people(write):
    signature = f"{SENTENCES[0]}, and I write about it below everything that I post"
    rows = [(f"u{k}", TYPES[k % 16], t) for k in range(60) for t in (signature, f"{k} alone")]
    members = split_of(write(rows))
    assert len(members.groups) == 60
    held_out, shared = members.shared
    assert held_out == 2 * shared > 0


def test_too_few_groups_are_refused_with_the_reason(write):
    with pytest.raises(DataError) as caught:
        split_of(write(by_author(SENTENCES[:2], 40)))
    message = str(caught.value)
    assert message.startswith("2 groups of rows cannot be split into train, val, test; ")
    assert "40 users are only 2 groups, because those that share an author or a text" in message


def test_what_cannot_be_kept_apart_is_a_warning_with_its_number(write, tmp_path):
    rows = [(f"u{k}", TYPES[k % 16], t) for k in range(60) for t in ("good morning", f"about {k}")]
    config = write(rows)
    info = prepare_dataset(config, tmp_path / "cache").info
    members = split_of(config)
    shared = len(held_out_in_train(members))
    assert shared > 0
    assert (info.held_out_posts, info.shared_posts) == (2 * shared, shared)
    (warning,) = info.warnings
    assert warning.startswith(f"{shared} of {2 * shared} posts in val and test are also in train")
    duplicates = audit(config, load_users(config.data))["repeats"]
    assert (duplicates["held_out"], duplicates["near_across"]) == (2 * shared, shared)
    intervals = {"groups": 100, "resamples": 10, "resampled": "author"}
    assert warning in caveats({"intervals": intervals}, info.as_dict())


def test_notes_and_bad_rows_are_those_of_the_file_that_is_read(write, tmp_path):
    rows = by_author([f"{k} words of one person only" for k in range(60)], 60)
    first = prepare_dataset(write(rows), tmp_path / "cache")
    named = write([(*row, "x") for row in rows], header=("author", "type", "text", "likes"))
    second = prepare_dataset(named, tmp_path / "cache")
    assert first.info.fingerprint == second.info.fingerprint
    assert first.info.notes == []
    assert second.info.notes == ['columns not used: "likes"']


def test_without_shared_texts_there_is_no_warning(write, tmp_path):
    config = write(by_author([f"{k} words of one person only" for k in range(60)], 60))
    assert prepare_dataset(config, tmp_path / "cache").info.warnings == []


def test_that_authors_are_on_both_sides_is_a_warning(write, tmp_path):
    rows = [(f"u{k % 4}", TYPES[k % 4], f"{k} words of one person only") for k in range(60)]
    config = write(rows, "data.unit=post", "data.split_by=user")
    (warning,) = prepare_dataset(config, tmp_path / "cache").info.warnings
    assert warning.startswith("4 of 4 authors in val and test are also in train (data.split_by=")


def test_a_user_of_several_rows_is_the_same_one_in_any_order_of_the_rows(write):
    rows = [(f"u{k % 30}", TYPES[k % 30 % 16], f"{k} words of one person") for k in range(60)]
    users = []
    for order in (rows, rows[::-1]):
        config = write(order, "data.split_by=user", "data.join_rows=always")
        users.append({*build_examples(config, load_users(config.data).rows).groups})
    assert users[0] == users[1]
    assert len(users[0]) == 30


def test_the_split_of_the_builtin_corpus_is_that_of_its_users():
    config = load_run("quick")
    examples = build_examples(config, store_rows(builtin_rows(), config.data))
    assert len({*examples.group}) == len(examples) == 2400


def test_groups_keep_the_shares_of_types(write):
    rows = [
        (f"{t}{k}", t, f"{SENTENCES[k % 8]} {t} {k // 8}")
        for t in ("INTJ", "ESFP")
        for k in range(160)
    ]
    rows += [(f"copy {a}", t, text) for a, t, text in rows]
    members = split_of(write(rows))
    for name, size in (("train", 512), ("val", 64), ("test", 64)):
        assert len(members[name]) == pytest.approx(size, abs=4)
        intj = sum(e.mbti_type == "INTJ" for e in members[name])
        assert intj == pytest.approx(size / 2, abs=4)


TEXTS = st.sampled_from(
    ["one text", "One, text!", "two text", "thanks", "a b c", "🖤", "intj here", "ENFP here"]
    + [f"some text number {k}" for k in range(12)]
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "", "[deleted]", *(f"author {k}" for k in range(9))]),
        st.sampled_from(["INTJ", "ENFP", "istp", "ESFJ-T"]),
        st.lists(TEXTS, min_size=1, max_size=3),
    ),
    min_size=6,
    max_size=40,
)


def as_file(rows, kind, folder):
    """The rows in one of the formats; each post list as the format has it."""
    records = [{"author": a, "type": t, "posts": "|||".join(p)} for a, t, p in rows]
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "json":
        path.write_text(json.dumps(records), "utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(records)
        path.write_text(file.getvalue(), "utf-8", newline="")
    return path


def check_only_common_texts_are_shared(members, split_by):
    """The holders of a text who wrote little else are in one split; those of a long one all are."""
    writers, splits_of = defaultdict(set), defaultdict(set)
    for name, part in members.items():
        for e in part:
            by_user = split_by == "user" and e.number
            for text in e.texts:
                writers[text_key(text)].add(by_user or e.person)
            splits_of[by_user or e.person].add(name)
    own = Counter(next(iter(by)) for by in writers.values() if len(by) == 1)
    for by in writers.values():
        linked = [w for w in by if own[w] == 0 or 1 / (own[w] + 1) >= len(by) / 25]
        assert len({name for w in linked for name in splits_of[w]}) <= 1


@given(
    rows=ROWS,
    kind=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]),
    unit=st.sampled_from(["user", "post"]),
    split_by=st.sampled_from(["auto", "author", "user"]),
    conflicts=st.sampled_from(["majority", "leave_out"]),
    data=st.data(),
)
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_text_is_in_two_splits_in_any_order_and_format(
    tmp_path, rows, kind, unit, split_by, conflicts, data
):
    """Or the source is refused, or the number of those that are is reported."""
    settings_ = [
        *(f"data.unit={unit}", f"data.split_by={split_by}", f"data.conflicting_types={conflicts}"),
        *("data.val_share=0.2", "data.test_share=0.2", "data.join_rows=always"),
    ]
    found = []
    for order, form in ((rows, "csv"), (data.draw(st.permutations(rows)), kind)):
        path = as_file(order, form, tmp_path)
        config = load_run("quick", [f"data.source={path}", *settings_])
        try:
            members = split_of(config)
        except DataError as error:
            found.append(re.sub(r"^\S+: ", "", str(error))[:20])
            continue
        shared = held_out_in_train(members)
        assert members.shared[1] == len(shared)
        check_only_common_texts_are_shared(members, split_by)
        found.append(
            {name: sorted(t for e in part for t in e.texts) for name, part in members.items()}
        )
    assert found[0] == found[1]


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not on this machine")
def test_the_shared_case_of_60_authors_and_4_texts_is_kept_apart_or_refused():
    path = CASES / "dup_by_author.csv"
    with pytest.raises(DataError, match="60 users are only 4 groups, because those that share"):
        split_of(load_run("quick", [f"data.source={path}"]))
    members = split_of(load_run("quick", [f"data.source={path}", *WIDE]))
    assert {name: len(part) for name, part in members.items()} == {
        "train": 30,
        "val": 15,
        "test": 15,
    }
    assert held_out_in_train(members) == []
