"""Pages and cards: whole, well formed, asking for nothing, and saying what must be known."""

import re
import time
from copy import deepcopy
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from mbti_ray.cli import tables
from mbti_ray.config import load_run
from mbti_ray.errors import ConfigError
from mbti_ray.reports import wording
from mbti_ray.reports.charts import bars, confusions, learning_curves, reliability
from mbti_ray.reports.html import Html, check_page_path, escape, page, table, write_page
from mbti_ray.reports.model_card import NOT_FOR_DECISIONS, model_card
from mbti_ray.reports.scorecard_page import scorecard_page
from mbti_ray.scores.baselines import majority_class
from mbti_ray.scores.findings import Finding
from mbti_ray.scores.scorecard import Scored, build_scorecard
from mbti_ray.typology import DIMENSIONS

pytestmark = pytest.mark.unit

KEYS = [d.key for d in DIMENSIONS]
VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = 'a<b>&"quoted"|[c]'


def about(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def dimension(k):
    base = 0.8 + 0.03 * k
    return {
        "accuracy": about(base),
        "balanced_accuracy": about(base - 0.05),
        "macro_f1": about(base - 0.04),
        "mcc": about(0.5 + 0.02 * k, 0.05),
        "auroc": about(0.9),
        "brier": about(0.12),
        "ece": about(0.034),
        "confusion": {"tp": 150 + k, "fn": 50, "fp": 70, "tn": 694 - k},
        "positive": 0.2 + 0.1 * k,
        "reliability": [
            {
                "low": b / 15,
                "high": (b + 1) / 15,
                "count": 0 if b == 7 else 10 + (b - 7) ** 2 * 4,
                "probability": (b + 0.5) / 15,
                "positive": min(1.0, max(0.0, (b + 0.5 + (b % 3 - 1)) / 15)),
            }
            for b in range(15)
        ],
        "abstained": 0.0,
        "accuracy_answered": None,
    }


def rates(value):
    keys = (*KEYS, "accuracy", "all_four", "at_least_three", "macro_f1")
    return {key: about(value - (0.3 if key == "all_four" else 0)) for key in keys}


def scorecard(groups=964):
    dimensions = {key: dimension(k) for k, key in enumerate(KEYS)}
    metrics = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "brier", "ece")
    overall = {m: about(sum(d[m]["value"] for d in dimensions.values()) / 4) for m in metrics}
    return {
        "rows": 964,
        "intervals": {
            "level": 0.95,
            "resampled": "author",
            "groups": groups,
            "resamples": 1000,
            "method": "percentile bootstrap of authors",
        },
        "dimensions": dimensions,
        "overall": overall
        | {"all_four": about(0.52), "at_least_three": about(0.81), "abstained": 0.0},
        "baselines": {
            "majority": {"description": "the majority class of these very rows"} | rates(0.7),
            "most_mentioned": {"description": "the type mentioned most"} | rates(0.75),
            "most_mentioned_masked": {"description": "the same after masking"} | rates(0.7),
        },
        "missing": {"tfidf": "scikit-learn is not installed"},
        "paired": {
            "against": "majority",
            **{key: about(0.1, 0.03) | {"p": 0.0004} for key in (*KEYS, "accuracy")},
            "all_four": about(0.01, 0.03) | {"p": 0.41},
            "macro_f1": about(0.12, 0.03) | {"p": None},
            "test": "sign flips of authors",
        },
    }


def bare(card):
    """The same card without what may be missing."""
    card = deepcopy(card)
    card["intervals"] |= {"resamples": 0}
    for record in (*card["dimensions"].values(), card["overall"]):
        for estimate in record.values():
            if isinstance(estimate, dict) and "low" in estimate:
                estimate |= {"low": None, "high": None}
        record["auroc"] = None
    return card | {"baselines": {}, "missing": {}, "paired": None}


HISTORY = [
    {
        "epoch": epoch,
        "step": 100 * epoch,
        "train": {"loss": 0.6 / epoch, "acc_mean": 0.7 + 0.05 * epoch},
        "val": {
            "loss": 0.62 / epoch**0.5 + 0.02 * epoch,
            "acc_mean": 0.7 + 0.03 * epoch - 0.002 * epoch**2,
            "majority_mean": 0.71,
        },
        "seconds": 9.5,
    }
    for epoch in range(1, 6)
]
CALIBRATION = {
    "temperature": [1.31, 1.12, 1.4, 1.22],
    "thresholds": [0.5, 0.47, 0.5, 0.52],
    "threshold_objective": "balanced_accuracy",
    "abstain": 0.05,
    "before": {"brier": 0.131, "ece": 0.061},
    "after": {"brier": 0.126, "ece": 0.022},
}
FINDINGS = [
    finding.as_dict()
    for finding in (
        Finding(
            "overfitting",
            None,
            f"validation loss rose for 3 epochs, see {NASTY}",
            {"model.dropout": 0.3, "fit.patience": None},
        ),
        Finding("weak", "jp", "MCC 0.02", {}),
    )
]
DATA_INFO = {
    "source": "posts.csv",
    "fingerprint": "0123456789abcdef",
    "split_by": "author",
    "mask_version": 3,
    "mask_also": ["functions"],
    "rows": {"train": 7711, "val": 964, "test": 964},
    "bad": 2,
}
SCORES = {
    "best_epoch": 4,
    "scorecard": scorecard(),
    "calibration": CALIBRATION,
    "diagnosis": FINDINGS,
}


def full_page(**changes):
    cards = {"as served (masked)": scorecard(), "type words left in": scorecard()}
    given = {
        "calibration": CALIBRATION,
        "findings": FINDINGS,
        "history": HISTORY,
        "data_info": DATA_INFO,
    }
    return scorecard_page("scores of mine", changes.pop("cards", cards), **(given | changes))


def card_of(*overrides, scores=SCORES, data_info=DATA_INFO):
    return model_card(
        bundle_id="abc123",
        config=load_run("quick", overrides),
        data_info=data_info,
        scores=scores,
        versions={"mbti_ray": "0.1.0", "torch": "2.11"},
    )


class Elements(HTMLParser):
    """Every element of a page, and what is wrong with its nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text, self.problems = [], [], [], []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def words(self):
        # Splits at no-break spaces too.
        return " ".join(" ".join(self.text).split())


def assert_asks_for_nothing(text):
    elements = Elements(text)
    assert elements.problems == []
    assert not {"script", "iframe", "img", "object", "use", "image"} & {
        t for t, _ in elements.found
    }
    for _, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "data:,") == "data:,"
        assert "src" not in attributes
        assert "id" not in attributes
    assert not re.search(r"https?:|url\(|@import", text)
    return elements


def test_a_page_that_is_not_nested_is_noticed():
    assert Elements("<p><b>x</p></b>").problems
    assert Elements("<p>").problems
    assert not Elements("<p><b>x</b><br></p>").problems


def test_the_page_is_well_formed_asks_for_nothing_and_has_every_chart():
    elements = assert_asks_for_nothing(full_page())
    assert len(elements.named("svg")) == 4 + 4 + 2
    for chart in elements.named("svg"):
        assert chart["role"] == "img"
        assert re.search(r"\d", chart["aria-label"])
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
                 "weak (J/P) : MCC 0.02", "percentile bootstrap of authors"):  # fmt: skip
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


def test_a_warning_about_the_data_is_on_the_page_and_in_the_card():
    data_info = DATA_INFO | {"warnings": ["posts.csv: 12 of 12 posts in val and test are in train"]}
    assert Elements(full_page(data_info=data_info)).words.count("12 of 12 posts in val") == 1
    assert "**posts.csv: 12 of 12 posts in val and test are in train**" in card_of(
        data_info=data_info
    )


def test_names_are_escaped():
    card = scorecard()
    card["missing"] = {NASTY: NASTY}
    text = scorecard_page(
        NASTY, {NASTY: card, "b": card}, findings=FINDINGS, data_info={"source": NASTY}
    )
    elements = assert_asks_for_nothing(text)
    assert "<b>" not in text
    assert elements.named("b") == []
    assert elements.words.count(NASTY) >= 6


def test_a_card_without_intervals_auroc_baselines_and_history_has_a_page():
    text = scorecard_page("bare", {"one": bare(scorecard())})
    elements = assert_asks_for_nothing(text)
    assert len(elements.named("svg")) == 8
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)
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
    text = scorecard_page("built", {"masked": card, "unmasked": card}, history=HISTORY)
    elements = assert_asks_for_nothing(text)
    assert len(elements.named("svg")) == 10
    assert ("with one person nothing can be resampled" in elements.words) == (persons == 1)
    assert "Against majority on the same rows" in card_of(scores=SCORES | {"scorecard": card})
    tables.print_scorecard({"test": card})
    tables.print_scorecard({"masked": card, "unmasked": card})
    for shown in (text, card_of(scores=SCORES | {"scorecard": card}), capsys.readouterr().out):
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
    for text in (full_page(data_info=data_info), card_of(data_info=data_info)):
        assert (wording.SPLIT_BY_POST in text) == is_warned
        assert ("the same people are on both sides" in text) == is_warned


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        ({"value": 0.05, "low": 0.02, "high": 0.08, "p": 0.0001},
         "mean accuracy is higher by 0.050 (95 % interval 0.020 to 0.080, p < 0.001), more than"),
        ({"value": -0.05, "low": -0.08, "high": -0.02, "p": 0.01},
         "is lower by 0.050 (95 % interval -0.080 to -0.020, p = 0.010), more than chance"),
        ({"value": 0.01, "low": -0.02, "high": 0.04, "p": 0.5}, "p = 0.500), which may be chance"),
        ({"value": 0.01, "low": 0.005, "high": 0.02, "p": 0.25}, "which may be chance"),
        ({"value": 0.01, "low": -0.005, "high": 0.02, "p": 0.01}, "which may be chance"),
        ({"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}, "is the same (95 %"),
        ({"value": 0.01, "low": None, "high": None, "p": None}, "with no test of whether"),
    ],
)  # fmt: skip
def test_the_compare_with_baseline_claims_no_more_than_interval_and_test_show(difference, shown):
    card = scorecard() | {"paired": {"against": "tfidf", "accuracy": difference, "test": "flips"}}
    sentence = wording.compare_with_baseline(card)
    assert shown in sentence
    assert sentence.startswith("Against tfidf on the same rows")
    assert sentence.endswith("Test: flips.")


def test_an_abstaining_model_shows_its_share_of_x_and_the_accuracy_of_the_rest():
    card = scorecard()
    card["overall"]["abstained"] = 0.1
    card["dimensions"]["ei"] |= {"abstained": 0.123, "accuracy_answered": 0.911}
    shown = Elements(scorecard_page("x", {"one": card})).words
    assert "E/I 12.3 % 0.911" in shown
    assert "predicted X" not in Elements(full_page()).words


def test_charts_take_their_colors_and_font_from_the_page():
    card = scorecard()["dimensions"]
    drawn = bars("b", [("INTJ", 0.5, "50 %")]) + reliability(card) + confusions(card)
    drawn += learning_curves(HISTORY)
    assert not re.search(r"#[0-9a-f]{6}|font-family|black|white", drawn)
    assert "var(--ink)" in drawn
    texts = re.findall(r"<text[^>]*>", drawn)
    assert len(texts) > 50
    assert all("fill: var(--" in text for text in texts)


def test_text_of_a_chart_is_drawn_as_it_is_written():
    assert ">$x$ a_b<" in bars("b", [("$x$ a_b", 1, "1")])


@pytest.mark.parametrize("lengths", [[], [("a", 0, "0"), ("b", 0, "0")]])
def test_bars_without_length_are_drawn(lengths):
    assert Elements(bars("empty", lengths)).problems == []


@pytest.mark.parametrize(
    "history",
    [
        HISTORY[:1],
        [{"epoch": 1, "train": {"loss": 0.5}, "val": None}],
        [{"epoch": 1, "val": {"loss": None}}],
    ],
)
def test_a_short_or_partial_history_is_drawn(history):
    elements = Elements(learning_curves(history))
    assert elements.problems == []
    assert len(elements.named("svg")) == 2


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    first = bars("b", [("a", 1, "1")])
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "text.color": "red"}):
        assert bars("b", [("a", 1, "1")]) == first


def test_only_what_is_html_is_put_in_unescaped():
    assert escape("<i>") == "&lt;i&gt;"
    assert escape(Html("<i>")) == "<i>"
    assert "&lt;i&gt;" in table(["<i>"], [["a", "b"]])
    assert "&lt;i&gt;" in page("<i>", [])


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
        check_page_path(tmp_path / name, option="--report")


def test_the_card_says_what_a_reader_must_know():
    text = card_of()
    for shown in ("abc123", "0123456789abcdef", "| split by | author |", "functions masked",
                 "majority", "most_mentioned_masked", "tfidf: missing: scikit-learn",
                 "0.845 (0.825 to 0.865)", "Against majority on the same rows", "self-reported",
                 "| at least three | macro-F1 |", "mean macro-F1 is higher by 0.120 (95 %",
                 "Pittenger 2005", "0.126 after", "best epoch | 4", NOT_FOR_DECISIONS):  # fmt: skip
        assert shown in text
    assert all(use in NOT_FOR_DECISIONS for use in ("hiring", "grading", "treatment"))
    assert "None" not in text.replace("none", "")


def test_the_front_matter_of_the_card_is_what_a_hub_reads():
    _, front, body = card_of().split("---\n", 2)
    content = yaml.safe_load(front)
    assert content["pipeline_tag"] == "text-classification"
    assert "accuracy" in content["metrics"]
    assert "mbti" in content["tags"]
    assert "license" not in content
    assert body.lstrip().startswith("# ")


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


def test_the_screen_shows_one_scorecard_within_100_columns(capsys):
    tables.print_scorecard({"test": scorecard(3)})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    shown = "\n".join(lines)
    assert re.search(
        r"E/I +0\.800 \(0\.780-0\.820\) +0\.760 \(0\.740-0\.780\) +0\.750 +0\.500 +0\.900", shown
    )
    assert re.search(r"all four +0\.520 \(0\.500-0\.540\)", shown)
    assert re.search(r"most_mentioned_masked +0\.700", shown)
    assert "tfidf is missing: scikit-learn is not installed" in shown
    assert "only 3 author(s)" in shown
    words = " ".join(shown.split())
    assert "mean +0.100 (+0.070 to +0.130, p 0.0004), macro-F1 +0.120 (+0.090 to +0.150)," in words


def test_the_screen_shows_two_scorecards_side_by_side(capsys):
    tables.print_scorecard({"masked [x]": scorecard(), "type words left in": bare(scorecard())})
    shown = capsys.readouterr().out
    assert re.search(r"masked \[x\] +type words left in", shown)
    assert re.search(r"J/P +0\.890 \(0\.870-0\.910\) +0\.890\n", shown)
    assert re.search(r"mean macro-F1 +0\.805 \(0\.785-0\.825\) +0\.805\n", shown)
    assert "Brier" not in shown


def test_the_screen_shows_a_bare_scorecard(capsys):
    tables.print_scorecard({"test": bare(scorecard())})
    shown = capsys.readouterr().out
    assert re.search(r"mean +0\.845 +0\.805 +0\.795 +0\.530 +- +0\.120", shown)
    assert "None" not in shown


def test_findings_are_one_line_each_with_what_to_try(capsys):
    tables.print_findings(FINDINGS)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("overfitting: validation loss rose")
    assert first.endswith(f"{NASTY}; try model.dropout=0.3 fit.patience=null")
    assert second == "weak (J/P): MCC 0.02"
