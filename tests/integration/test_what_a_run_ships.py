"""model.reader=tfidf, stack and best: ordinary runs, bundles and answers."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mbti_ray import MBTIClassifier
from mbti_ray.config import RunConfig
from mbti_ray.config.schema import ServeConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.processes import no_progress
from mbti_ray.data.users import load_users
from mbti_ray.data.windows import shorten_rows
from mbti_ray.engine.cross_fit import cross_fit, cross_fit_folds
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import BundleError
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.export import main as export_main
from mbti_ray.inference import finalize
from mbti_ray.inference.bundle import load_row_hashes
from mbti_ray.inference.evaluation import evaluate_bundle, load_evaluation_data
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.folds import read_folds
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.calibration import Lengths
from mbti_ray.serving.schemas import UserRequest
from mbti_ray.serving.served_model import ServedModel, warm_up
from mbti_ray.train import main as train_main
from mbti_ray.tune import main as tune_main
from mbti_ray.typology import labels_of

pytestmark = [pytest.mark.integration]
pytest.importorskip("sklearn", reason="needs the extra baselines")

Build = Callable[..., RunConfig]


def train(
    config: RunConfig, home: Path, folder: RunFolder | None = None
) -> tuple[RunFolder, dict[str, Any]]:
    """A run in this process, as the training worker does it."""
    folder = folder or RunFolder.at(home / "run")
    folder.path.mkdir(exist_ok=True)
    data = prepare_dataset(config, home / "cache")
    outcome = cross_fitted = None
    if config.model.has_encoder:
        worker = Worker()
        outcome = run(config, data, worker, keeps_last_epoch=config.data.trains_on_all)
        cross_fitted = cross_fit(config, data, worker, epochs=outcome.progress.best_epoch)
    finalize_run(config, data, outcome, folder, cross_fitted=cross_fitted)
    return folder, json.loads(folder.scores.read_text("utf-8"))


Shipped = Callable[[str], tuple[RunFolder, dict[str, Any]]]


@pytest.fixture(scope="module")
def shipped(quick: Build, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The run with a reader, trained once: tfidf, stack, best, or "stack of posts"."""

    @cache
    def run_of(reader: str) -> tuple[RunFolder, dict[str, Any]]:
        reader, _, member = reader.partition(" of ")
        settings = [f"model.reader={reader}", f"model.member={member or 'windows'}"]
        return train(quick(*settings, "fit.epochs=1"), tmp_path_factory.mktemp(reader))

    return run_of


@pytest.mark.parametrize("reader", ["tfidf", "stack", "best", "stack of posts"])
def test_evaluate_and_the_predictor_score_as_the_run_did(
    shipped: Shipped, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    folder, scores = shipped(reader)
    reader = reader.partition(" of ")[0]
    assert scores["reader"] in ({"tfidf", "windows", "stack"} if reader == "best" else {reader})
    capsys.readouterr()
    assert evaluate_main([str(folder.bundle), "--split", "test", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated["scores"] == pytest.approx(scores["test"], abs=1e-5)
    names = {path.name for path in folder.bundle.iterdir()}
    assert ("model.safetensors" in names) == (scores["reader"] != "tfidf")
    assert ("stack.safetensors" in names) == (scores["reader"] == "stack")
    assert not any(name.endswith((".pkl", ".pt", ".joblib")) for name in names)


def test_evaluate_compares_with_the_baseline_of_the_run_where_that_learned_shares(
    quick: Build, tmp_path: Path
) -> None:
    lines = []
    for place, row in enumerate(load_users(quick().data).rows):
        # A third of the shares contradict the type.
        hard = labels_of(row.mbti_type or "")
        shares = [0.9 if pole == bool(place % 3) else 0.1 for pole in hard]
        record = {"type": row.mbti_type, "posts": row.posts}
        lines.append(json.dumps(record | dict(zip("ENTJ", shares, strict=True))))
    (tmp_path / "shares.jsonl").write_text("\n".join(lines), "utf-8")
    file = f"data.source={tmp_path / 'shares.jsonl'}"
    settings = [file, "data.shares_of=ENTJ", "loss.targets=shares", "fit.epochs=1"]
    folder, scores = train(quick(*settings), tmp_path)
    rows = load_evaluation_data(folder.bundle, [], split="test")
    evaluated = evaluate_bundle(folder.bundle, rows, no_progress).scorecards["masked"]
    expected = scores["scorecard"]["baselines"]["tfidf"]
    assert json.loads(json.dumps(evaluated["baselines"]["tfidf"])) == expected


def test_tfidf_reads_the_whole_text_and_says_which_words_it_knows(shipped: Shipped) -> None:
    folder, _ = shipped("tfidf")
    predictor = Predictor.load(folder.bundle)
    features = (folder.bundle / "tfidf_features.txt").read_text("utf-8").split("\n")
    three = " ".join([name for name in features if " " not in name][:3])
    known = predictor.predict([[three]], whole=False)[0]
    unknown = predictor.predict([["xyzzy plugh 北京"]], whole=False)[0]
    long = predictor.predict([[f"{three} " * 5000]], whole=False)[0]
    assert (known.unknown, unknown.unknown) == (0.0, 1.0)
    assert (long.truncated, long.windows, long.tokens) == (False, 1, 15_000)
    posts = [three, "one post about friends", "🙂"]
    found = predictor.predict([posts, posts[::-1], ["🙂", "🙂"]], whole=True)
    assert found[0].probabilities == pytest.approx(found[1].probabilities)
    # A post without words has none that is unknown.
    (read,) = predictor.predict([[three, "🙂"]], whole=True)
    assert (read.unknown, found[2].unknown) == (0.0, 1.0)


def test_the_confidence_of_tfidf_is_fitted_to_beginnings_of_texts_as_they_would_be_read(
    quick: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Lengths] = []
    monkeypatch.setattr(finalize, "fit_length_scaling", fitted.append)
    config = quick("model.reader=tfidf")
    folder, _ = train(config, tmp_path)
    (rows,) = fitted
    val = prepare_dataset(config, tmp_path / "cache").splits["val"]
    short = shorten_rows(val)
    assert (~rows.is_whole).sum() == short.row_count > val.row_count / 2
    whole = dict(zip(val.rows["number"].to_pylist(), val.texts, strict=True))
    for number, text in zip(short.rows["number"].to_pylist(), short.texts, strict=True):
        assert f"{whole[number]} ".replace("\n", " ").startswith(f"{text} ".replace("\n", " "))
    texts = [text.split("\n") for text in (*val.texts, *short.texts)]
    found = Predictor.load(folder.bundle).predict_logits(texts, whole=True, is_preprocessed=True)
    np.testing.assert_allclose(rows.logits, found.values, atol=1e-5)
    assert rows.tokens.tolist() == [row.tokens for row in found.rows]
    assert rows.tokens[~rows.is_whole].max() < rows.tokens[rows.is_whole].max() / 2


def test_tfidf_has_no_graph_and_says_so(
    shipped: Shipped, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = shipped("tfidf")
    with pytest.raises(BundleError, match=r"is TF-IDF.*leave out serve\.runtime=onnx"):
        Predictor.load(folder.bundle, runtime="onnx")
    assert export_main([str(folder.bundle)]) == 2
    assert "is TF-IDF" in capsys.readouterr().err
    assert export_main([str(folder.bundle), "--to", "hf", str(folder.path / "hf")]) == 2
    assert "model.reader=tfidf" in capsys.readouterr().err
    assert "; TF-IDF; trained on" in repr(MBTIClassifier.from_pretrained(folder.bundle))


def test_damaged_features_are_refused(shipped: Shipped, tmp_path: Path) -> None:
    bundle = shutil.copytree(shipped("tfidf")[0].bundle, tmp_path / "bundle")
    path = bundle / "tfidf_features.txt"
    path.write_text(path.read_text("utf-8").replace("a", "b", 1), "utf-8")
    with pytest.raises(BundleError, match=r"tfidf_features\.txt"):
        Predictor.load(bundle)


def test_best_says_what_it_ships_and_keeps_the_simplest_on_a_tie(shipped: Shipped) -> None:
    _, scores = shipped("best")
    choice = scores["choice"]
    assert [c["reader"] for c in choice["comparisons"]] == ["windows", "stack"]
    kept = "tfidf"
    for comparison in choice["comparisons"]:
        assert comparison["against"] == kept
        kept = comparison["reader"] if comparison["wins"] else kept
        assert not (comparison["wins"] and comparison["p"] >= 0.05)
    assert choice["reader"] == scores["reader"] == kept
    assert choice["line"].startswith(f"ships {kept}, by Brier on validation: windows against tfidf")


def test_a_stack_is_fitted_to_logits_of_rows_that_its_encoders_have_not_seen(
    quick: Build, tmp_path: Path
) -> None:
    config = quick("model.reader=stack", "fit.epochs=1")
    data = prepare_dataset(config, tmp_path)
    train_rows = data.splits["train"]
    folds = list(cross_fit_folds(train_rows.persons, seed=0))
    assert sorted(np.concatenate(folds).tolist()) == list(range(train_rows.row_count))
    people = [set(train_rows.persons[fold].tolist()) for fold in folds]
    assert not people[0] & people[1]
    assert not people[2] & (people[0] | people[1])
    logits = cross_fit(config, data, Worker(), epochs=1)
    assert logits is not None
    # Labels of a part do not change the logits of that part.
    flipped = train_rows.labels[:, 0].copy()
    flipped[folds[0]] = 1 - flipped[folds[0]]
    rows = train_rows.rows.set_column(
        train_rows.rows.column_names.index("e"), "e", pa.array(flipped)
    )
    data.splits["train"] = type(train_rows)(train_rows.table, rows)
    changed = cross_fit(config, data, Worker(), epochs=1)
    assert changed is not None
    np.testing.assert_array_equal(changed[folds[0]], logits[folds[0]])
    assert (changed[folds[1]] != logits[folds[1]]).any()


def test_two_people_are_two_parts_to_cross_fit() -> None:
    folds = [fold.tolist() for fold in cross_fit_folds(np.array([7, 9, 7]), seed=0)]
    assert sorted(folds) == [[0, 2], [1]]


@pytest.mark.parametrize("reader", ["windows", "posts"])
def test_folds_of_an_encoder_end_with_a_bundle_trained_on_all_for_their_median_epoch(
    quick: Build, tmp_path: Path, reader: str
) -> None:
    home = RunFolder.at(tmp_path / "run")
    home.path.mkdir()
    settings = [
        f"model.reader={reader}",
        "data.folds=2",
        "scoring.baselines=false",
        "scoring.resamples=0",
    ]
    for number in (1, 2):
        train(quick(*settings, f"data.fold={number}"), tmp_path, home.fold(number))
    results = read_folds(quick(*settings), home)
    assert results.epochs == round(sum(s["best_epoch"] for s in results.scores) / 2)
    folder, scores = train(quick(*settings, f"fit.epochs={results.epochs}"), tmp_path, home)
    assert (scores["reader"], scores["best_epoch"]) == (reader, results.epochs)
    assert scores["scorecard"]["rows"] == 313
    manifest = load_manifest(folder.bundle)
    rules = [s["calibration"]["temperature"] for s in results.scores]
    assert manifest.temperature == pytest.approx(np.sqrt(np.prod(rules, 0)))
    hashes = load_row_hashes(folder.bundle)
    assert hashes is not None
    assert len(hashes["train"]) == 313
    assert Predictor.load(folder.bundle).predict([["a text"]], whole=True)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.reader=tfidf", "has nothing to search"),
        ("data.folds=3", "one fold say too little to stop a trial; set study.scheduler=none"),
    ],
)
def test_a_study_refuses_what_it_cannot_search(
    small_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, reason: str
) -> None:
    assert tune_main([f"data.source={small_file}", f"storage={tmp_path}", setting]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_tfidf_without_scikit_learn_is_refused_before_anything_is_written(
    small_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    words = [f"data.source={small_file}", "model.reader=best", f"storage={tmp_path}", "name=a"]
    assert train_main(words) == 2
    assert not (tmp_path / "a").exists()


def test_the_service_answers_with_tfidf_and_with_a_stack_as_the_predictor_does(
    shipped: Shipped,
) -> None:
    posts = ["I like a party with friends", "plans and lists before a trip"]
    for reader in ("tfidf", "stack"):
        folder, _ = shipped(reader)
        predictor = Predictor.load(folder.bundle)
        with ThreadPoolExecutor(1) as executor:
            config = ServeConfig()
            speed = warm_up(predictor, {1: executor}, config)
            served = ServedModel(predictor, {1: executor}, config, tokens_per_s=speed)
            answer = asyncio.run(served.predict(UserRequest(posts=posts))).predictions[0]
        (expected,) = predictor.predict([posts], whole=True)
        assert answer.type == expected.type
        assert answer.probabilities == pytest.approx(expected.probabilities)
