"""`evaluate` knows the rows of a bundle by their content, whatever file they come in."""

import csv
import json
import random
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from mbti_ray import MBTIClassifier
from mbti_ray.config import RunConfig
from mbti_ray.data.split import text_key
from mbti_ray.data.text import preprocess_text
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.predict import main as predict_main
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.integration

Row = tuple[str, str, str]


@pytest.fixture(scope="module")
def rows(small_file: Path) -> list[Row]:
    """120 posts of 24 authors: author, type, text."""
    with small_file.open(encoding="utf-8", newline="") as file:
        users = list(csv.DictReader(file))[:24]
    return [
        (f"a{n}", user["type"], post)
        for n, user in enumerate(users)
        for post in user["posts"].split("|||")[:5]
    ]


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("author", "type", "text"), *rows])
    return path


@pytest.fixture(scope="module")
def source(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv", rows)


@pytest.fixture(scope="module")
def trained(
    source: Path,
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
) -> Path:
    return make_bundle(quick(f"data.source={source}", "data.unit=post", "fit.epochs=1"))


def test_a_bundle_of_single_posts_reads_all_posts_of_a_person(trained: Path) -> None:
    predictor, posts = Predictor.load(trained), ["a quiet evening " * 40, "a loud party " * 40]
    both, first = predictor.predict([posts, posts[:1]], whole=True)
    assert not both.truncated
    assert both.windows > first.windows
    assert both.probabilities != first.probabilities


@pytest.fixture
def evaluate(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Exit code, JSON and text of an evaluation."""

    def run(source: Path, *options: str, bundle: Path = trained) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = evaluate_main([str(bundle), f"data.source={source}", "--json", *options])
        captured = capsys.readouterr()
        text = " ".join((captured.out + captured.err).split())
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else {}, text

    return run


def test_rows_are_recognized_in_a_file_that_differs_by_a_row_in_order_and_in_format(
    rows: list[Row], source: Path, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    _, own, _ = evaluate(source)
    assert own["split"] == "test"
    assert sum(scores["rows"] for scores in own["groups"].values()) == len(rows)
    assert own["groups"]["test"] == own["scores"]
    shuffled = [*rows, ("stranger", "INTJ", "a post that nobody has seen before")]
    random.Random(0).shuffle(shuffled)
    other = tmp_path / "other.jsonl"
    lines = [json.dumps({"author": a, "type": t, "text": x}) for a, t, x in shuffled]
    other.write_text("\n".join(lines), "utf-8")
    _, found, text = evaluate(other)
    assert found["split"] == "unseen"
    assert found["groups"].pop("new")["rows"] == 1
    for name, scores in found["groups"].items():
        assert scores == pytest.approx(own["groups"][name], abs=1e-5)
    assert found["scores"]["rows"] == own["scores"]["rows"] + 1
    assert "1 new to the bundle" in text


def test_rows_are_recognized_in_other_spelling(
    rows: list[Row], evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    spelled = [(a, t, f"«{x.upper()}» !") for a, t, x in rows]
    _, found, _ = evaluate(write_rows(tmp_path / "spelled.csv", spelled))
    assert set(found["groups"]) == {"train", "val", "test"}


def test_users_are_recognized_with_their_rows_in_another_order(
    source: Path,
    rows: list[Row],
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
    evaluate: Callable[..., Any],
    tmp_path: Path,
) -> None:
    users = make_bundle(quick(f"data.source={source}", "fit.epochs=1"))
    _, found, _ = evaluate(write_rows(tmp_path / "back.csv", rows[::-1]), bundle=users)
    assert set(found["groups"]) == {"train", "val", "test"}


def test_people_who_have_written_more_since_are_not_new(
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
    evaluate: Callable[..., Any],
    tmp_path: Path,
) -> None:
    people = [
        (TYPES[k % 16], [f"post {n} of person {k} " * 5 for n in range(4)]) for k in range(48)
    ]

    def write_people(name: str, given: Sequence[tuple[str, list[str]]]) -> Path:
        return write_rows(tmp_path / name, [("", t, "|||".join(posts)) for t, posts in given])

    before = write_people("before.csv", people)
    bundle = make_bundle(quick(f"data.source={before}", "fit.epochs=1"))
    longer = [(t, [*posts, "what came to pass later " * 5]) for t, posts in people]
    _, found, _ = evaluate(write_people("after.csv", longer), bundle=bundle)
    counts = {name: scores["rows"] for name, scores in found["groups"].items()}
    # Those of the test split are new to the bundle, whatever they wrote.
    assert set(counts) == {"train", "val", "new"}
    assert counts["new"] <= 0.2 * len(people)
    # Two of three long posts are nobody's.
    strangers = [
        (t, [f"not by {n} of them {posts[0]}" for n in "ab"] + posts[:1]) for t, posts in people
    ]
    _, found, _ = evaluate(write_people("strangers.csv", strangers), bundle=bundle)
    assert set(found["groups"]) == {"new"}


def test_the_test_rows_alone_are_as_little_of_new_people_as_in_the_whole_file(
    source: Path,
    rows: list[Row],
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
    evaluate: Callable[..., Any],
    tmp_path: Path,
) -> None:
    settings = (f"data.source={source}", "data.unit=post", "data.split_by=post", "fit.epochs=1")
    bundle, path = make_bundle(quick(*settings)), tmp_path / "predictions.jsonl"
    evaluate(source, "--output", str(path), bundle=bundle)
    numbers = [json.loads(line)["number"] for line in path.read_text("utf-8").splitlines()]
    test = write_rows(tmp_path / "test.csv", [rows[n - 2] for n in numbers])
    _, found, _ = evaluate(test, bundle=bundle)
    assert "whose other posts it was trained on" in found["verdict"]


def test_a_file_of_training_rows_alone_has_nothing_unseen_and_can_be_scored_on_demand(
    source: Path, rows: list[Row], evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    _, train, _ = evaluate(source, "--split", "train")
    assert list(train["groups"]) == ["train"]
    path = tmp_path / "predictions.jsonl"
    evaluate(source, "--split", "train", "--output", str(path))
    numbers = [json.loads(line)["number"] for line in path.read_text("utf-8").splitlines()]
    seen = write_rows(tmp_path / "seen.csv", [rows[n - 2] for n in numbers])
    code, _, text = evaluate(seen)
    assert code == 2
    assert f"({len(numbers)} seen in training); allowed: --split all" in text
    code, scored, _ = evaluate(seen, "--split", "all")
    assert code == 0
    assert scored["scores"] == pytest.approx(train["scores"], abs=1e-5)


def test_a_bundle_of_an_older_version_says_that_it_cannot_tell(
    source: Path, trained: Path, rows: list[Row], evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    (old / "rows.safetensors").unlink()
    manifest = json.loads((old / "bundle.json").read_text("utf-8"))
    del manifest["files"]["rows.safetensors"]
    (old / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    code, found, text = evaluate(source, bundle=old)
    assert (code, found["split"], found["scores"]["rows"]) == (0, "all", len(rows))
    assert list(found["groups"]) == ["unknown"]
    assert "120 perhaps seen in training" in text
    code, _, text = evaluate(source, "--split", "test", bundle=old)
    assert code == 2
    assert "has no rows for --split test" in text


@pytest.mark.parametrize("content", [b"", b"{}", b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_row_hashes_are_refused_in_one_sentence(
    source: Path, trained: Path, evaluate: Callable[..., Any], tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(trained, tmp_path / "broken")
    (tmp_path / "broken" / "rows.safetensors").write_bytes(content)
    code, _, text = evaluate(source, bundle=tmp_path / "broken")
    assert code == 2
    assert "rows.safetensors is damaged" in text


def test_the_bundle_holds_sorted_hashes_of_its_rows_and_no_text(
    trained: Path, rows: list[Row]
) -> None:
    hashes = load_file(trained / "rows.safetensors")
    texts = {text_key(preprocess_text(text, mask=True)) for _, _, text in rows}
    assert sum(len(values) for values in hashes.values()) == len(texts)
    for values in hashes.values():
        assert values.dtype == "uint64"
        assert (values[1:] > values[:-1]).all()


def test_base_rates_are_those_of_predict_evaluate_and_python_alike(
    bundle: Path, small_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(main: Callable[[list[str]], int], *arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([str(bundle), *arguments, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    text = "a quiet evening with a book"
    trained = load_manifest(bundle).base_rates
    assert trained is not None
    plain, asked = (
        run(predict_main, text, *option)["predictions"][0]["probabilities"]
        for option in ([], ["--base-rates", "e = 0.9, N=0.2"])
    )
    python = MBTIClassifier.from_pretrained(bundle, base_rates={"E": 0.9, "N": 0.2})
    assert dict(zip("ENTJ", python.predict_proba(text).tolist(), strict=True)) == pytest.approx(
        asked
    )
    for k, (pole, rate) in enumerate((("E", 0.9), ("N", 0.2))):
        ratio = rate / (1 - rate) * (1 - trained[k]) / trained[k]
        odds = plain[pole] / (1 - plain[pole]) * ratio
        assert asked[pole] == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert [asked[p] for p in "TJ"] == pytest.approx([plain[p] for p in "TJ"])
    more_e = run(evaluate_main, "--base-rates", "E=0.9")["scores"]
    assert more_e["given_ei"] > run(evaluate_main)["scores"]["given_ei"]
    assert predict_main([str(bundle), text, "--base-rates", "E=1.5"]) == 2
    assert "serve.base_rates.E" in capsys.readouterr().err
    assert predict_main([str(bundle), text, "--base-rates", "I=0.4"]) == 2
    assert '"I" is not allowed; allowed: shares of E, N, T and J' in capsys.readouterr().err


def test_the_scorecard_has_the_calibration_error_by_the_length_of_the_text(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_main([str(bundle), "--json"]) == 0
    cards = json.loads(capsys.readouterr().out.splitlines()[-1])["scorecards"]
    card = cards["masked"]
    bins = card["lengths"]
    assert len(bins) == 4
    assert sum(b["rows"] for b in bins) == card["rows"]
    assert all(a["high"] <= b["low"] for a, b in pairwise(bins))
    mean = sum(b["rows"] * b["accuracy"] for b in bins) / card["rows"]
    assert mean == pytest.approx(card["overall"]["accuracy"]["value"])
    assert cards["unmasked"]["lengths"] is None
