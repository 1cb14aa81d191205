"""What counts as a text: the same in Python and on the command line, and what is unknown in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mbti_ray import MBTIClassifier
from mbti_ray.errors import DataError
from mbti_ray.predict import main as predict_main

pytestmark = pytest.mark.integration

TEXTS = ["a quiet evening with a book", "we met new friends at the party"]
NOTHING = ["", "   ", "\u200b\u200b", "\u00ad\u2060\ufeff", "\u3164", "\x00\x07"]
RUSSIAN = "Привет, как дела?"


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> MBTIClassifier:
    return MBTIClassifier.load_from_checkpoint(bundle)


@pytest.mark.parametrize(
    "column",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        pd.Series(TEXTS, index=[7, 3]),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Index(TEXTS),
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]], pa.large_string()),
        pa.table({"text": TEXTS})["text"],
    ],
    ids=lambda column: f"{type(column).__module__}.{type(column).__name__}",
)
def test_columns_of_every_library_are_predicted_like_a_list(
    classifier: MBTIClassifier, column: Any
) -> None:
    assert classifier.predict(column) == classifier.predict(TEXTS)
    assert classifier.predict_proba(column).equal(classifier.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"text": TEXTS}), r"got DataFrame; allowed: a text, a sequence of texts"),
        (pa.table({"text": TEXTS}), "got Table; allowed"),
        ({"text": TEXTS}, "got dict; allowed"),
        pytest.param(iter(TEXTS), "got list_iterator; allowed", id="iterator"),
        (np.array([TEXTS]), "got ndarray; allowed"),
        (None, "got NoneType; allowed"),
        (3.5, "got float; allowed"),
        (b"text", "got bytes; allowed"),
        ([*TEXTS, None], r"^row 2 \(from 0\): expected a text, got None$"),
        (pd.Series([TEXTS[0], float("nan")]), r"^row 1 \(from 0\): expected a text, got nan$"),
        (pd.Series([TEXTS[0], pd.NA], dtype="string"), "row 1 .* got NAType"),
        (pa.array([TEXTS[0], None]), "row 1 .* got None"),
        (np.array([1.0, 2.0]), r"row 0 .* got 1\.0"),
        ([TEXTS], "row 0 .* got list"),
    ],
    ids=str,
)
def test_what_is_no_text_is_refused_with_its_row(
    classifier: MBTIClassifier, given: Any, message: str
) -> None:
    for call in (classifier.predict, classifier.predict_proba):
        with pytest.raises(DataError, match=message):
            call(given)


@pytest.mark.parametrize("text", NOTHING, ids=ascii)
def test_a_text_with_nothing_to_read_is_refused(
    classifier: MBTIClassifier, bundle: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"^the text is empty or has invisible characters only$"):
        classifier.predict(text)
    with pytest.raises(DataError, match=r"^row 1 \(from 0\): the text is empty"):
        classifier.predict([TEXTS[0], text])
    assert predict_main([str(bundle), TEXTS[0], text]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("command line: row 1 (from 0): the text is empty")
    assert captured.err.count("\n") == 1


@pytest.fixture
def answers(bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[Any]]:
    def run(*arguments: str, place: Path = bundle) -> list[Any]:
        assert predict_main([str(place), "--json", *arguments]) == 0
        predictions: list[Any] = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"]
        return predictions

    return run


def test_everything_after_two_dashes_is_a_text(answers: Callable[..., list[Any]]) -> None:
    assert len(answers("--", "mood=sad again", "runs/quick", "--input")) == 3
    assert len(answers("a text", "--", "data.source=x")) == 2


def test_the_share_of_unknown_words_is_answered(answers: Callable[..., list[Any]]) -> None:
    nothing, everything, some = answers(RUSSIAN, "a quiet book, a", "a quiet book " + RUSSIAN)
    assert (nothing["unknown"], everything["unknown"]) == (1.0, 0.0)
    assert 0 < some["unknown"] < 1
    assert nothing["type"] != "XXXX", "this bundle never abstains"


def test_a_bundle_that_abstains_answers_x_where_every_word_is_unknown(
    bundle: Path, tmp_path: Path, answers: Callable[..., list[Any]]
) -> None:
    folder = tmp_path / "abstaining"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    (folder / "bundle.json").write_text(json.dumps({**manifest, "abstain": 1e-6}), "utf-8")
    unknown, known = answers(RUSSIAN, "a book " + RUSSIAN, place=folder)
    assert unknown["type"] == "XXXX"
    assert "X" not in known["type"]
