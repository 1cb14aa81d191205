"""The model card, and the sentences that it shares with the pages."""

import re

import pytest

from mbti_ray.config import load_run
from mbti_ray.reports import wording
from mbti_ray.reports.model_card import NOT_FOR_DECISIONS, model_card
from mbti_ray.scores.verdict import describe_paired, verdict
from report_records import DATA_INFO, SCORES, bare, scorecard

pytestmark = pytest.mark.unit


def card_of(*overrides, scores=SCORES, data_info=DATA_INFO):
    return model_card(
        bundle_id="abc123",
        config=load_run("quick", overrides),
        data_info=data_info,
        scores=scores,
        versions={"mbti_ray": "0.1.0", "torch": "2.11"},
    )


def test_the_card_says_what_a_reader_must_know():
    text = card_of()
    for shown in ("abc123", "0123456789abcdef", "| split by | author |", "functions masked",
                 "majority", "most_mentioned_masked", "tfidf: missing: scikit-learn",
                 "0.845 (0.825 to 0.865)", "Against majority on the same rows", "self-reported",
                 "| at least three | macro-F1 |", "macro-F1 +0.120 (",
                 "Pittenger 2005", "0.126 after", "best epoch | 4", NOT_FOR_DECISIONS):  # fmt: skip
        assert shown in text
    assert all(use in NOT_FOR_DECISIONS for use in ("hiring", "grading", "treatment"))
    assert "None" not in text.replace("none", "")


def test_the_card_quotes_no_row_and_no_folder():
    bad = [{"number": 3, "reason": "secret words of a user"}]
    data_info = DATA_INFO | {"source": "/home/me.secret/posts.csv", "bad": bad}
    text = card_of("data.source=/home/me.secret/posts.csv", data_info=data_info)
    assert "secret" not in text
    assert "me.secret" not in text
    assert "| source | posts.csv |" in text
    assert "| bad rows left out | 1 |" in text


def test_marks_of_markdown_in_names_stay_marks():
    text = card_of(data_info=DATA_INFO | {"source": "a|b<i>_c_`.csv"})
    assert r"| source | a\|b\<i\>\_c\_\`.csv |" in text


def test_every_table_of_the_card_has_equal_rows():
    tables = re.findall(r"(?:^\|.*\n)+", card_of(), flags=re.MULTILINE)
    assert len(tables) == 6
    for rows in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1


def test_the_card_of_bare_scores_and_of_the_builtin_corpus_can_be_written():
    scores = {"scorecard": bare(scorecard()), "calibration": None, "diagnosis": []}
    text = card_of(scores=scores, data_info={"source": "builtin", "mask_version": 0})
    assert "There are no people in these data" in text
    assert wording.UNMASKED in text
    assert "## Calibration" not in text
    assert "There are no people" not in card_of("data.source=posts.csv")


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        (
            {"value": 0.05, "low": 0.02, "high": 0.08, "p": 0.0001},
            "+0.050 (+0.020 to +0.080, p 0.0001)",
        ),
        (
            {"value": -0.05, "low": -0.08, "high": -0.02, "p": 0.01},
            "-0.050 (-0.080 to -0.020, p 0.01)",
        ),
        ({"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}, "+0.000 (+0.000 to +0.000, p 1)"),
        ({"value": 0.01, "low": None, "high": None, "p": None}, "+0.010"),
    ],
)
def test_a_difference_from_a_baseline_has_its_interval_p_and_test(difference, shown):
    card = scorecard() | {"paired": {"against": "tfidf", "accuracy": difference, "test": "flips"}}
    assert describe_paired(card) == f"Against tfidf on the same rows: mean {shown} [flips]"


def test_a_warning_about_the_data_is_in_the_card():
    text = card_of(data_info=DATA_INFO | {"warnings": ["posts.csv: 12 of 12 posts are in train"]})
    assert "**posts.csv: 12 of 12 posts are in train**" in text


@pytest.mark.parametrize(("split_by", "is_warned"), [("post", True), ("user", False)])
def test_only_a_split_by_post_gives_a_warning(split_by, is_warned):
    text = card_of(data_info=DATA_INFO | {"split_by": split_by})
    assert (wording.SPLIT_BY_POST in text) == is_warned


@pytest.mark.parametrize(
    ("groups", "difference", "sentence"),
    [
        (6, {"value": -0.1, "low": -0.2, "high": -0.05, "p": 0.03},
         "0.845 a letter on 6 people: worse than TF-IDF (0.800); do not use it yet"),
        (40, {"value": 0.1, "low": 0.05, "high": 0.2, "p": 0.001},
         "0.845 a letter on 40 people: better than TF-IDF (0.800), by more than chance explains"),
        (6, {"value": 0.1, "low": 0.05, "high": 0.2, "p": 0.03},
         "by more than chance explains; with so few people a rough guide"),
        (1, {"value": 0.1, "low": None, "high": None, "p": None},
         "on 1 person: no better than TF-IDF (0.800) as far as can be told; do not use it yet"),
        (40, {"value": 0.1, "low": 0.01, "high": 0.2, "p": 0.2}, "no better than TF-IDF"),
    ],
)  # fmt: skip
def test_the_verdict_claims_no_more_than_interval_and_test_show(groups, difference, sentence):
    card = scorecard(groups)
    card["baselines"]["tfidf"] = {"accuracy": {"value": 0.8, "low": None, "high": None}}
    card["paired"] = {"against": "tfidf", "accuracy": difference, "test": "flips"}
    assert sentence in verdict(card)
    assert "whose other posts it was trained on:" in verdict(card, {"split_by": "post"})


def test_a_verdict_without_baselines_compares_nothing():
    assert verdict(bare(scorecard())) == (
        "0.845 a letter on 964 people: not compared with any baseline"
    )


def test_the_card_says_on_what_the_model_was_trained_and_tested():
    lengths = [{"low": 8, "high": 90, "rows": 3, "confidence": 0.6, "accuracy": 0.5, "ece": 0.1}]
    scores = SCORES | {"scorecard": SCORES["scorecard"] | {"lengths": lengths}}
    folds = ("data.folds=5", "loss.targets=shares")
    text = card_of("model.reader=stack", *folds, scores=scores)
    assert "| loss | bce, on soft labels |" in text
    assert "with the same two weights in all dimensions" in text
    assert "trained on all of them afterwards), by the length of the text" in text
    assert "test split" not in text
    assert "weighing alike, on soft labels.\n" in card_of("model.reader=tfidf", *folds)
    assert "weighing alike.\n" in card_of("model.reader=tfidf")
