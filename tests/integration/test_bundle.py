"""Bundles, the predictor and `MBTIClassifier`: the trained model is the served model."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase

import pytest
import torch
from torch import Tensor

from mbti_ray import MBTIClassifier
from mbti_ray.config import RunConfig
from mbti_ray.data.batch_sampler import MIN_EFFICIENT_TOKENS
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.windows import TokenIds
from mbti_ray.engine.loop import Outcome, run
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import BundleError
from mbti_ray.evaluate import main as evaluate_main
from mbti_ray.inference.bundle import Bundle, load_bundle
from mbti_ray.inference.bundle_writer import build_golden_texts, write_bundle
from mbti_ray.inference.manifest import DecisionRule, load_manifest, write_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.inference.runtimes import TorchRuntime
from mbti_ray.model.classifier import build_model

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def trained(
    quick: Build, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Dataset, Outcome]:
    # Windows short enough that a user has several.
    config = quick("model.max_tokens=32")
    data = prepare_dataset(config, tmp_path_factory.mktemp("cache"))
    return config, data, run(config, data, Worker())


@pytest.fixture(scope="module")
def bundle(
    trained: tuple[RunConfig, Dataset, Outcome], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("run") / "bundle"
    _write(folder, *trained)
    return folder


def _write(
    folder: Path,
    config: RunConfig,
    data: Dataset,
    outcome: Outcome,
    decision: DecisionRule | None = None,
) -> None:
    write_bundle(
        folder,
        config=config,
        model=outcome.model,
        data=data,
        scores={"val": outcome.val, "test": outcome.test},
        rule=decision,
    )


def test_evaluate_reproduces_the_test_scores_of_the_run(
    trained: tuple[RunConfig, Dataset, Outcome],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, data, outcome = trained
    assert data.splits["test"].row_count < len(data.splits["test"]), "users need several windows"
    rows = tmp_path / "rows.jsonl"
    assert evaluate_main([str(bundle), "--json", "--output", str(rows)]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["split"] == "test"
    assert answer["scores"] == pytest.approx(outcome.test, abs=1e-5)
    lines = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    right = sum(line["true"] == line["type"] for line in lines)
    assert right / len(lines) == pytest.approx(outcome.test["acc_total"])


@pytest.mark.parametrize("unit", ["post", "user"])
def test_head_and_tail_are_read_alike_in_training_evaluation_and_predictions(
    quick: Callable[..., RunConfig],
    make_bundle: Callable[[RunConfig], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unit: str,
) -> None:
    config = quick(
        *("model.truncation=head_tail", "model.max_tokens=8", "data.max_windows=2"),
        *(f"data.unit={unit}", "fit.epochs=1", "data.test_share=0.05", "data.val_share=0.02"),
    )
    data = prepare_dataset(config, tmp_path)
    assert data.info.truncated
    bundle = make_bundle(config)
    assert evaluate_main([str(bundle), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["scores"]["acc_mean"] == load_manifest(bundle).scores["test"]["acc_mean"]
    predictor, middle = Predictor.load(bundle), "and so on " * 30
    first, same, other = (
        predictor.predict_logits([[text]], whole=unit == "user").values
        for text in (f"a {middle} b c", f"a {middle * 2} b c", f"a {middle} b d")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_other_data_is_scored_completely_and_has_no_test_split(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("type,posts\nINTJ,a quiet plan\nESFP,a loud party\n", "utf-8")
    assert evaluate_main([str(bundle), f"data.source={other}", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["split"], answer["scores"]["rows"]) == ("all", 2)
    assert evaluate_main([str(bundle), f"data.source={other}", "--split", "test"]) == 2
    assert "no" in capsys.readouterr().err


def test_heads_are_in_the_order_e_n_t_j_from_weights_to_prediction(
    trained: tuple[RunConfig, Dataset, Outcome], tmp_path: Path
) -> None:
    config, data, outcome = trained
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    with torch.no_grad():
        model.heads.weight.zero_()
        model.heads.bias.copy_(torch.tensor([4.0, -3.0, 2.0, -1.0]))
    fixed = replace(outcome, model=model)
    _write(tmp_path / "bundle", config, data, fixed)
    prediction = Predictor.load(tmp_path / "bundle").predict([["any text"]], whole=False)[0]
    assert prediction.type == "ESTP"
    expected = torch.sigmoid(torch.tensor([4.0, -3.0, 2.0, -1.0])).tolist()
    assert list(prediction.as_dict()["probabilities"]) == ["E", "N", "T", "J"]
    assert [*prediction.probabilities.values()] == pytest.approx(expected)


def test_predictions_use_the_temperatures_thresholds_and_abstain_band_of_the_bundle(
    trained: tuple[RunConfig, Dataset, Outcome], tmp_path: Path
) -> None:
    config, data, outcome = trained
    decision = DecisionRule(
        temperature=[2.0, 1.0, 1.0, 4.0], thresholds=[0.5, 0.01, 0.5, 0.8], abstain=0.1
    )
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    with torch.no_grad():
        model.heads.weight.zero_()
        model.heads.bias.copy_(torch.tensor([4.0, -3.0, 0.2, 4.0]))
    _write(tmp_path / "bundle", config, data, replace(outcome, model=model), decision)
    (prediction,) = Predictor.load(tmp_path / "bundle").predict([["any text"]], whole=False)
    expected = torch.sigmoid(torch.tensor([2.0, -3.0, 0.2, 1.0])).tolist()
    assert [*prediction.probabilities.values()] == pytest.approx(expected)
    # 0.88 is clear; 0.05 lies within 0.1 of 0.01; 0.55 of 0.5, and 0.73 of 0.8.
    assert prediction.type == "EXXX"


def test_masked_spans_are_positions_in_the_cleaned_text(bundle: Path) -> None:
    reading = Predictor.load(bundle).explain_masking("🙂  As an INTJ,\nsee https://x.org")
    assert reading["text"] == "🙂 As an INTJ, see https://x.org"
    parts = [(reading["text"][h["start"] : h["end"]], h["kind"]) for h in reading["hidden"]]
    assert parts == [("INTJ", "type"), ("https://x.org", "link")]


def test_evaluate_scores_rows_both_masked_and_unmasked(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "tells.csv"
    path.write_text("type,posts\n" + "INTJ,as an intj I say\nESFP,as an esfp I say\n" * 30)
    assert evaluate_main([str(bundle), f"data.source={path}", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out.splitlines()[-1])["scorecards"]
    assert list(cards) == ["masked", "unmasked"]
    # Masked, the two kinds of user read the same.
    assert cards["masked"]["overall"]["accuracy"]["value"] == 0.5
    assert cards["masked"]["baselines"]["most_mentioned_masked"]["all_four"]["value"] == 0.5
    assert cards["unmasked"]["baselines"]["most_mentioned"]["all_four"]["value"] == 1.0
    assert "needs the split" in cards["masked"]["missing"]["tfidf"]


def test_a_prediction_does_not_depend_on_the_other_rows_of_the_batch(bundle: Path) -> None:
    predictor = Predictor.load(bundle)
    texts = [
        ["short"],
        ["a much longer text about plans " * 20],
        ["🙂"],
        ["an evening with a book"],
    ]
    together = predictor.predict_logits(texts, whole=True).values
    for text, logits in zip(texts, together, strict=True):
        alone = predictor.predict_logits([text], whole=True).values[0]
        assert torch.allclose(alone, logits, atol=1e-5)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_golden_logits_are_checked_in_float32_whatever_precision_is_set(
    bundle: Path, precision: str
) -> None:
    # "medium" is bfloat16 on CPUs that have it (a gap of 1e-2), "high" is TF32 on GPUs.
    before = torch.get_float32_matmul_precision()
    expected = Predictor.load(bundle).golden_logits()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(Predictor.load(bundle).golden_logits(), expected)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_large_logits_may_differ_in_proportion_and_the_refusal_names_tf32(
    trained: tuple[RunConfig, Dataset, Outcome], tmp_path: Path
) -> None:
    config, data, outcome = trained
    model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
    with torch.no_grad():
        model.heads.bias.fill_(50.0)
    _write(tmp_path / "bundle", config, data, replace(outcome, model=model))
    manifest = load_manifest(tmp_path / "bundle")

    def shifted(gap: float) -> None:
        golden = [
            text.model_copy(update={"logits": [x + gap for x in text.logits]})
            for text in manifest.golden
        ]
        write_manifest(tmp_path / "bundle", manifest.model_copy(update={"golden": golden}))

    shifted(0.04)
    Predictor.load(tmp_path / "bundle")
    shifted(0.06)
    with pytest.raises(BundleError, match=r"golden logits .*TF32"):
        Predictor.load(tmp_path / "bundle")


class CountingRuntime(TorchRuntime):
    """A runtime that needs large passes, as a GPU does, and counts their tokens."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "cpu", "32")
        self.min_efficient_tokens = MIN_EFFICIENT_TOKENS["cuda"]
        self.passes: list[int] = []

    def __call__(self, windows: Sequence[TokenIds]) -> Tensor:
        self.passes.append(len(windows) * max(map(len, windows)))
        return super().__call__(windows)


def test_passes_are_large_enough_for_the_device(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    runtime = CountingRuntime(loaded)
    # All different: equal windows are computed once.
    words = random.Random(0)
    texts = [[" ".join(words.choices(ascii_lowercase, k=1 + n % 20))] for n in range(4000)]
    Predictor(loaded, runtime).predict(texts, whole=False)
    assert len(runtime.passes) > 2
    assert min(runtime.passes[:-1]) >= runtime.min_efficient_tokens


def test_a_long_text_is_truncated_to_one_window_or_read_whole_in_several(bundle: Path) -> None:
    predictor = Predictor.load(bundle)
    post = "a walk in the hills with friends " * 15
    (cut,) = predictor.predict([[post]], whole=False)
    (read,) = predictor.predict([[post]], whole=True)
    assert (cut.truncated, cut.windows) == (True, 1)
    assert not read.truncated
    assert read.windows > 1


def test_mbti_classifier_predicts_as_specified(bundle: Path) -> None:
    classifier = MBTIClassifier.load_from_checkpoint(bundle.parent)
    one = classifier.predict("I love meeting new people!")
    assert isinstance(one, str)
    assert len(one) == 4
    texts = ["I love meeting new people!", "Logic above all else"]
    assert classifier.predict(texts)[0] == one
    assert classifier.predict([]) == []
    probabilities = classifier.predict_proba(texts[0])
    assert tuple(probabilities.shape) == (4,)
    assert tuple(classifier.predict_proba(texts).shape) == (2, 4)
    letters = zip(probabilities.tolist(), ("EI", "NS", "TF", "JP"), strict=True)
    assert "".join(pair[0] if p > 0.5 else pair[1] for p, pair in letters) == one


def test_a_bundle_contains_no_pickle_and_only_synthetic_golden_texts(
    bundle: Path,
) -> None:
    assert {p.suffix for p in bundle.iterdir()} <= {".safetensors", ".json", ".txt", ".md"}
    manifest = (bundle / "bundle.json").read_text("utf-8")
    golden = [g["text"] for g in json.loads(manifest)["golden"]]
    assert golden == build_golden_texts()
    assert len(golden) == 20
