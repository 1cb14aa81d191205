"""Pages: whole, well formed, asking for nothing, and saying what must be known."""

import base64
import hashlib
import json
import re
import time

import numpy as np
import pytest

from mbti_ray.cli import tables
from mbti_ray.config import load_run
from mbti_ray.data.audit import audit
from mbti_ray.data.users import load_users
from mbti_ray.errors import ConfigError
from mbti_ray.reports import wording
from mbti_ray.reports.audit_page import audit_conclusions, audit_page, audit_tables
from mbti_ray.reports.charts import learning_curves
from mbti_ray.reports.html import write_page
from mbti_ray.reports.scorecard_page import About, scorecard_page
from mbti_ray.scores.baselines import majority_class
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard
from mbti_ray.scores.verdict import verdict
from mbti_ray.storage.output_tables import check_extension
from report_records import (
    CALIBRATION,
    DATA_INFO,
    FINDINGS,
    HISTORY,
    NASTY,
    Elements,
    bare,
    scorecard,
)

pytestmark = pytest.mark.unit

ABOUT = About(load_run("quick", ()), "runs/mine", "2026-11-25")


def page_of(title, cards, **more):
    return scorecard_page(title, cards, kind="run", about=ABOUT, **more)


def full_page(**changes):
    cards = {"as served (masked)": scorecard(), "type words left in": scorecard()}
    given = {
        "calibration": CALIBRATION,
        "findings": FINDINGS,
        "history": HISTORY,
        "data_info": DATA_INFO,
    }
    return page_of("scores of mine", changes.pop("cards", cards), **(given | changes))


def assert_asks_for_nothing(text):
    elements = Elements(text)
    assert elements.problems == []
    assert not {"iframe", "img", "object", "use", "image"} & {t for t, _ in elements.found}
    *data, script = elements.named("script")
    assert [*data, script] == [{"type": "application/json"}] * len(data) + [{}]
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        assert not re.match("[a-z]+:(?!,)|//", attributes.get("href", ""))
        assert "src" not in attributes
    # The library of the charts contains addresses; no policy lets it use them.
    assert not re.search(r"https?:|url\(|@import", text[: text.rindex("<script>")])
    return elements


def charts_of(elements):
    """The specifications of a page's charts; JSON has no NaN, which a browser would refuse."""

    def refuse(constant):
        raise AssertionError(constant)

    return [
        json.loads(part, parse_constant=refuse)
        for part in elements.text
        if part.startswith('{"caption":')
    ]


def test_a_page_that_is_not_nested_is_noticed():
    assert Elements("<p><b>x</p></b>").problems
    assert Elements("<p>").problems
    assert not Elements("<p><b>x</b><br></p>").problems


def test_the_page_is_well_formed_asks_for_nothing_and_has_every_chart():
    elements = assert_asks_for_nothing(full_page())
    charts = charts_of(elements)
    assert len(charts) == 4 + 2
    assert len(elements.named("figure")) == 4 + 4 + 2
    for chart in charts:
        assert chart["rows"]
    headings = ("Scores: as served (masked)", "Scores: type words left in", "side by side",
                "Compared with baselines", "Reliability", "Confusion matrices", "Calibration",
                "Learning curves", "Diagnosis", "Data")  # fmt: skip
    assert all(heading in elements.words for heading in headings)


def test_the_page_has_every_metric():
    shown = Elements(full_page()).words
    card = scorecard()
    for record in (*card["dimensions"].values(), *card["baselines"].values()):
        for estimate in record.values():
            if isinstance(estimate, dict) and "low" in estimate:
                assert f"{estimate['value']:.3f} {estimate['low']:.3f}–" in shown
    for text in ("tfidf is missing: scikit-learn is not installed", "0123456789abcdef", "7,711",
                 "split by author", "1.310", "0.061", "model.dropout=0.3", "fit.patience=null",
                 "weak (J/P): MCC 0.02", "percentile bootstrap of authors"):  # fmt: skip
        assert text in shown


def test_the_page_is_the_same_for_the_same_metrics_at_any_time():
    first = full_page()
    time.sleep(1.1)
    assert full_page() == first


def test_rows_that_the_bundle_has_seen_stand_apart_from_new_ones():
    scores = {"rows": 215.0, "acc_mean": 0.876, "f1_mean": 0.86, "acc_total": 0.56}
    groups = {"seen in training": scores, "new": scores | {"rows": 25.0, "acc_mean": 0.78}}
    words = Elements(full_page(groups=groups)).words
    assert "seen in training 215 0.876 0.860 0.560 new 25 0.780 0.860 0.560" in words
    assert "Rows by what the bundle has seen" not in Elements(full_page()).words


def test_a_warning_about_the_data_is_on_the_page():
    data_info = DATA_INFO | {"warnings": ["posts.csv: 12 of 12 posts in val and test are in train"]}
    assert Elements(full_page(data_info=data_info)).words.count("12 of 12 posts in val") == 1


def test_names_are_escaped():
    card = scorecard()
    card["missing"] = {NASTY: NASTY}
    text = page_of(NASTY, {NASTY: card, "b": card}, findings=FINDINGS, data_info={"source": NASTY})
    elements = assert_asks_for_nothing(text)
    assert "<b>" not in text[: text.rindex("<script>")]
    assert elements.named("b") == []
    assert elements.words.count(NASTY) >= 6


def test_a_card_without_intervals_auroc_baselines_and_history_has_a_page():
    text = page_of("bare", {"one": bare(scorecard())})
    elements = assert_asks_for_nothing(text)
    assert len(charts_of(elements)) == 4
    assert not re.search(r"None|\bnan\b", text[: text.rindex("<script>")])
    assert "no intervals were computed" in elements.words
    assert "No paired test was made" in elements.words
    assert "Learning curves" not in elements.words


@pytest.mark.parametrize("persons", [1, 3, 40])
def test_a_scorecard_as_it_is_built_can_be_shown_everywhere(persons, capsys):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (80, 4))
    labels[:, 2] = 1
    scored = Scored(
        np.clip(0.6 * labels + 0.5 * generator.random((80, 4)), 0, 1),
        labels,
        np.full(4, 0.5),
        np.arange(80) % persons,
        0.05,
    )
    card = build_scorecard(scored, [majority_class(labels)], resamples=50, person="author")
    assert card["dimensions"]["tf"]["auroc"] is None
    text = page_of("built", {"masked": card, "unmasked": card}, history=HISTORY)
    elements = assert_asks_for_nothing(text)
    assert len(charts_of(elements)) == 6
    assert ("with one person nothing can be resampled" in elements.words) == (persons == 1)
    tables.print_scorecard({"test": card})
    tables.print_scorecard({"masked": card, "unmasked": card})
    for shown in (text[: text.rindex("<script>")], capsys.readouterr().out):
        assert not re.search(r"\bNone\b|\bnan\b", shown)


@pytest.mark.parametrize("groups", [3, 19])
def test_few_resampled_people_give_a_warning(groups):
    shown = Elements(full_page(cards={"one": scorecard(groups)})).words
    assert f"only {groups} author" in shown
    assert "take the intervals as a rough guide" in shown


def test_one_person_gives_a_warning_that_does_not_mention_intervals():
    card = scorecard(1)
    card["intervals"]["resamples"] = 0
    shown = Elements(full_page(cards={"one": card})).words
    assert "the scores are of only 1 author." in shown
    assert "964 rows of 1 author; with one person" in shown


def test_many_resampled_people_give_no_warning():
    assert 'class="warning"' not in full_page(cards={"one": scorecard(20)})


@pytest.mark.parametrize(("split_by", "is_warned"), [("post", True), ("user", False)])
def test_only_a_split_by_post_gives_a_warning(split_by, is_warned):
    data_info = DATA_INFO | {"split_by": split_by}
    text = full_page(data_info=data_info)
    assert (wording.SPLIT_BY_POST in text) == is_warned
    assert ("the same people are on both sides" in text) == is_warned


def test_an_abstaining_model_shows_its_share_of_x_and_the_accuracy_of_the_rest():
    card = scorecard()
    card["overall"]["abstained"] = 0.1
    card["dimensions"]["ei"] |= {"abstained": 0.123, "accuracy_answered": 0.911}
    shown = Elements(page_of("x", {"one": card})).words
    assert "E/I 12.3 % 0.911" in shown
    assert "predicted X" not in Elements(full_page()).words


def test_charts_take_their_colors_from_the_page():
    script = Elements(full_page()).text[-2]
    own = script[script.index("const quantity") :]
    assert own.count("var(--") > 20
    assert not re.search(r"#[0-9a-f]{6}|black|white", own)


@pytest.mark.parametrize(
    ("history", "points"),
    [
        (HISTORY[:1], [2, 3]),
        ([{"epoch": 1, "train": {"loss": 0.5}, "val": None}], [1, 0]),
        ([{"epoch": 1, "val": {"loss": None}}], [0, 0]),
        ([{"epoch": 1, "val": {"loss": float("nan")}}], [0, 0]),
    ],
)
def test_a_short_or_partial_history_is_drawn_as_far_as_it_goes(history, points):
    drawn = learning_curves(history)
    assert [len(chart["rows"]) for chart in drawn] == points
    assert_asks_for_nothing(full_page(history=history))


def test_the_policy_allows_the_script_of_the_page_and_no_other():
    elements = Elements(full_page())
    policy = elements.named("meta")[-1]["content"]
    digest = hashlib.sha256(elements.text[-2].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
    assert policy.startswith("default-src 'none'; ")


def test_a_page_needs_no_writable_cache_and_is_the_same_without(tmp_path, monkeypatch):
    first = full_page()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert full_page() == first


def test_the_hero_has_the_verdict_the_scores_the_facts_and_the_commands():
    header = Elements(full_page(links=["scores.json"]).split("<nav")[0].split("<header>")[1])
    card = scorecard()
    for shown in (verdict(card, DATA_INFO), "accuracy a letter (as served (masked)) 0.845",
                  "0.825 to 0.865",
                  "the majority class 0.700", "data builtin", "model tiny, mean",
                  "date 2026-11-25", "mbti_ray 0.1.0", "mbti-ray serve runs/mine"):  # fmt: skip
        assert shown in header.words
    assert header.named("a") == [{"href": "scores.json"}]


@pytest.fixture(scope="module")
def audited():
    """The statistics of the built-in corpus."""
    config = load_run("quick")
    return audit(config, load_users(config.data))


def test_an_audit_begins_with_its_conclusions(audited):
    config, found = load_run("quick"), audited
    first, *others = conclusions = [*audit_conclusions(found, config)]
    most, share = next(iter(found["type_shares"].items()))
    assert f"always predicting {most} is right for {100 * share:.1f} %" in first
    assert others[-1].endswith("are also in train: scores may be too high.")
    text = audit_page(found, audit_tables(found, config), conclusions)
    elements = assert_asks_for_nothing(text)
    assert all(line in elements.words for line in conclusions)
    assert elements.words.index(first) < elements.words.index("users (rows that can be used)")
    assert len(charts_of(elements)) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"most_mentioned_rule": 0.9, "most_mentioned_rule_masked": 0.9, "majority": 0.1}, "still"),
        ({"most_mentioned_rule": 0.9, "most_mentioned_rule_masked": 0.1, "majority": 0.1},
         "masking removes that"),
        ({"most_mentioned_rule": 0.1, "most_mentioned_rule_masked": 0.1, "majority": 0.1},
         "no more than the majority type"),
        ({"splits": None, "split_problem": "too few"}, "cannot be split: too few."),
    ],
)  # fmt: skip
def test_conclusions_of_an_audit_follow_its_statistics(audited, changes, sentence):
    assert any(sentence in s for s in audit_conclusions(audited | changes, load_run("quick")))


def test_a_page_is_written_whole_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, "old")
    write_page(path, "lone \ud800 surrogate")
    assert path.read_text("utf-8") == "lone ? surrogate"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.htm", "did you mean"), ("none/x.html", "does not exist"), ("d.html", "is a folder")],
)
def test_a_page_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "d.html").mkdir()
    with pytest.raises(ConfigError, match=f"^--report .*{message}"):
        check_extension(tmp_path / name, (".html",), option="--report")
