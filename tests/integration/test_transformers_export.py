"""A folder for transformers: its pipeline gives the probabilities of `predict_proba`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
    pipeline,
)

from mbti_ray import MBTIClassifier
from mbti_ray.config import RunConfig
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.text import preprocess_text
from mbti_ray.errors import BundleError
from mbti_ray.export import main as export_main
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.manifest import DecisionRule, load_manifest, write_manifest
from mbti_ray.model.classifier import build_model
from mbti_ray.scores.calibration import LengthScaling

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
TEXTS = [
    "a quiet evening with a book",
    "we met new friends at the party, and talked until late",
    "a plan " * 40,
    "Ünïcode 🙂 and more",
]
_SMALL: dict[str, Any] = {"intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
# Positions: 64 tokens; RoBERTa counts from 2.
SHAPES = {
    "distilbert": DistilBertConfig(
        dim=32, hidden_dim=64, n_heads=2, n_layers=2, max_position_embeddings=64
    ),
    "bert": BertConfig(hidden_size=32, max_position_embeddings=64, **_SMALL),
    "roberta": RobertaConfig(hidden_size=32, max_position_embeddings=66, pad_token_id=1, **_SMALL),
}


@pytest.fixture(scope="module")
def make(quick: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A bundle of an untrained model of an architecture, with large logits and a temperature."""
    made: dict[tuple[str, str], Path] = {}

    def build(architecture: str, pooling: str) -> Path:
        if (architecture, pooling) in made:
            return made[architecture, pooling]
        folder = tmp_path_factory.mktemp(architecture)
        tiny = prepare_dataset(quick(), folder / "cache")
        shape = SHAPES[architecture]
        shape.vocab_size = len(tiny.tokenizer)
        # Far from constant, though it is untrained.
        shape.initializer_range = 0.3
        shape.save_pretrained(folder / "encoder")
        tiny.tokenizer.save_pretrained(folder / "encoder")
        torch.manual_seed(0)
        encoder = AutoModelForSequenceClassification.from_config(shape).base_model
        encoder.save_pretrained(folder / "encoder")
        config = quick(
            f"model.encoder={folder / 'encoder'}", f"model.pooling={pooling}", "model.max_tokens=64"
        )
        data = prepare_dataset(config, folder / "cache")
        model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
        with torch.no_grad():
            model.heads.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
        rule = DecisionRule(temperature=[2.0, 0.5, 1.0, 3.0], thresholds=[0.5, 0.4, 0.5, 0.5])
        write_bundle(folder / "bundle", config=config, model=model, data=data, scores={}, rule=rule)
        made[architecture, pooling] = folder / "bundle"
        return folder / "bundle"

    return build


def pipeline_probabilities(folder: Path, texts: list[str], **options: Any) -> list[list[float]]:
    classify = pipeline("text-classification", str(folder), **options)
    answers = classify(texts, top_k=None, truncation=True)
    by_letter = [{score["label"]: score["score"] for score in scores} for scores in answers]
    return [[scores[pole] for pole in "ENTJ"] for scores in by_letter]


@pytest.mark.parametrize(
    ("architecture", "pooling", "is_plain"),
    [
        ("distilbert", "cls", True),
        ("bert", "cls", True),
        ("roberta", "cls", True),
        ("bert", "mean", False),
        ("distilbert", "mean", False),
    ],
)
def test_the_pipeline_of_the_exported_folder_gives_the_probabilities_of_predict_proba(
    make: Callable[..., Path],
    tmp_path: Path,
    architecture: str,
    pooling: str,
    is_plain: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle, folder = make(architecture, pooling), tmp_path / "hf"
    assert export_main([str(bundle), "--to", "hf", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f'transformers.pipeline("text-classification", "{folder}"' in shown
    assert ("trust_remote_code=True" in shown) != is_plain
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "E", "1": "N", "2": "T", "3": "J"}
    assert ("auto_map" in config) != is_plain
    assert config["architectures"][0].endswith("ForSequenceClassification")
    # As transformers 4 calls it, with which such folders were tried by hand.
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    expected = MBTIClassifier.from_pretrained(bundle).predict_proba(TEXTS)
    assert expected.std() > 0.1, "a constant answer would show nothing"
    options = {} if is_plain else {"trust_remote_code": True}
    found = pipeline_probabilities(
        folder, [preprocess_text(t, mask=True) for t in TEXTS], **options
    )
    assert (torch.tensor(found) - expected).abs().max() < 1e-5
    written = "".join(
        p.read_text("utf-8") for p in folder.iterdir() if p.suffix in (".json", ".md")
    )
    assert str(bundle.parent) not in written, "a path of this machine"


def test_a_temperature_that_follows_the_length_of_a_text_is_exported_with_code(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, folder = tmp_path / "bundle", tmp_path / "hf"
    shutil.copytree(make("distilbert", "cls"), bundle)
    length = LengthScaling(slope=[-0.5, 0.0, 0.4, -1.0], reference=30.0, low=10.0, high=50.0)
    write_manifest(bundle, load_manifest(bundle).model_copy(update={"length": length}))
    assert export_main([str(bundle), "--to", "hf", str(folder)]) == 0
    expected = MBTIClassifier.from_pretrained(bundle).predict_proba(TEXTS)
    plain = MBTIClassifier.from_pretrained(make("distilbert", "cls")).predict_proba(TEXTS)
    assert (plain - expected).abs().max() > 0.01
    texts = [preprocess_text(t, mask=True) for t in TEXTS]
    found = pipeline_probabilities(folder, texts, trust_remote_code=True)
    assert (torch.tensor(found) - expected).abs().max() < 1e-5


def test_text_embeddings_inference_finds_what_it_reads(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    # Of its sources: the keys of its ModelConfig and BertConfig, and the names of BERT's weights.
    from safetensors import safe_open

    assert export_main([str(make("bert", "cls")), "--to", "hf", str(tmp_path / "hf")]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))
    keys = ["architectures", "model_type", "max_position_embeddings", "pad_token_id", "id2label"]
    keys += ["label2id", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]
    keys += ["intermediate_size", "hidden_act", "hidden_dropout_prob", "type_vocab_size"]
    keys += ["initializer_range", "layer_norm_eps"]
    assert [key for key in keys if key not in config] == []
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as weights:
        assert weights.get_slice("bert.pooler.dense.weight").get_shape() == [32, 32]
        assert weights.get_slice("classifier.weight").get_shape() == [4, 32]
        assert "bert.embeddings.LayerNorm.weight" in weights.keys()  # noqa: SIM118
    limit = json.loads((tmp_path / "hf" / "sentence_bert_config.json").read_text("utf-8"))
    assert limit["max_seq_length"] == 64
    tokenizer = json.loads((tmp_path / "hf" / "tokenizer.json").read_text("utf-8"))
    assert tokenizer["post_processor"] is not None, "its tokens have [CLS] and [SEP]"


def test_the_card_of_the_folder_is_what_a_hub_reads(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    given = ["--license", "apache-2.0", "--language", "en"]
    bundle = make("bert", "mean")
    assert export_main([str(bundle), "--to", "hf", str(tmp_path / "hf"), *given]) == 0
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    assert card.data.library_name == "transformers"
    assert "does not mask" in card.text
    assert "E 0.500, N 0.400" in card.text
    assert "trust_remote_code=True" in card.text


def test_nothing_is_written_where_something_is_or_if_the_probabilities_differ(
    make: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mbti_ray.inference.transformers_export as module

    bundle = make("bert", "cls")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert export_main([str(bundle), "--to", "hf", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err
    # tanh is not linear at this scale.
    monkeypatch.setattr(module, "_TANH_SCALE", 1.0)
    assert export_main([str(bundle), "--to", "hf", str(tmp_path / "off")]) == 2
    assert "the exported model differs by" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_what_transformers_cannot_load_is_refused_in_one_sentence(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make("bert", "cls")
    manifest = load_manifest(bundle)
    try:
        posts = manifest.model.model_copy(update={"reader": "posts"})
        write_manifest(bundle, manifest.model_copy(update={"model": posts}))
        assert export_main([str(bundle), "--to", "hf", str(tmp_path / "hf")]) == 2
    finally:
        write_manifest(bundle, manifest)
    assert "model.reader=posts" in capsys.readouterr().err
    assert export_main([str(bundle), "--to", "onnx", str(tmp_path / "hf")]) == 2
    assert "--to onnx; allowed: hf" in capsys.readouterr().err
    assert export_main([str(bundle), "--license", "mit"]) == 2
    assert not (tmp_path / "hf").exists()


def test_transformers_refuses_a_bundle_and_bundles_from_before_still_load(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    from mbti_ray.storage.checksums import describe_file

    bundle = make("distilbert", "cls")
    with pytest.raises(ValueError, match="mbti_ray"):
        pipeline("text-classification", str(bundle))
    with pytest.raises(ValueError, match="mbti_ray"):
        AutoConfig.from_pretrained(bundle)
    old = shutil.copytree(bundle, tmp_path / "old")
    encoder = json.loads((bundle / "config.json").read_text("utf-8"))["encoder"]
    (old / "config.json").write_text(json.dumps(encoder), "utf-8")
    manifest = load_manifest(old)
    files = {**manifest.files, "config.json": describe_file(old / "config.json")}
    write_manifest(old, manifest.model_copy(update={"files": files}))
    now, then = (MBTIClassifier.from_pretrained(place) for place in (bundle, old))
    assert then.predict_proba(TEXTS).equal(now.predict_proba(TEXTS))
    (old / "config.json").write_text(
        json.dumps({"model_type": "mbti_ray", "encoder": {"auto_map": {}}})
    )
    files = {**manifest.files, "config.json": describe_file(old / "config.json")}
    write_manifest(old, manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleError, match="auto_map"):
        MBTIClassifier.from_pretrained(old)
