"""A text's logits do not depend on its batch, for every architecture that README names."""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from test_packed import windows_of
from torch import Tensor
from transformers import PreTrainedConfig

from mbti_ray.config import RunConfig
from mbti_ray.data.collate import collate, collate_packed
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine.inputs import Inputs
from mbti_ray.engine.worker import Worker
from mbti_ray.errors import ConfigError
from mbti_ray.model.classifier import MBTIModel, to_device, use_packed_attention
from mbti_ray.model.encoder import build_encoder, check_positions

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]

_SHAPE = {
    "vocab_size": 90,
    "max_position_embeddings": 130,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
_DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "max_relative_positions": -1,
}
_MODERNBERT = {"local_attention": 16, "global_attn_every_n_layers": 3}
ENCODERS: dict[str, PreTrainedConfig] = {
    "BERT": transformers.BertConfig(**_SHAPE),
    "DistilBERT": transformers.DistilBertConfig(**(_SHAPE | _DISTILBERT)),
    "RoBERTa": transformers.RobertaConfig(**_SHAPE),
    "MPNet": transformers.MPNetConfig(**_SHAPE),
    "ELECTRA": transformers.ElectraConfig(**_SHAPE, embedding_size=32),
    "DeBERTa-v3": transformers.DebertaV2Config(**_SHAPE, **_DEBERTA),
    "ModernBERT": transformers.ModernBertConfig(**_SHAPE, **_MODERNBERT),
}
PACKED = ("BERT", "DistilBERT", "RoBERTa", "ELECTRA", "ModernBERT")
# The text of 60 tokens first, then a longer one and shorter ones.
LENGTHS = [60, 100, 41, 60, 9]


def model_of(encoder: str, pooling: str) -> MBTIModel:
    torch.manual_seed(0)
    model = MBTIModel(
        build_encoder(deepcopy(ENCODERS[encoder])), pooling=pooling, dropout=0.0
    ).eval()
    # Large enough weights that attention is not close to a mean over all tokens.
    for parameter in model.encoder.parameters():
        parameter.data.mul_(3 if parameter.ndim > 1 else 1)
    return model


@torch.inference_mode()
def padded(model: MBTIModel, members: list[int]) -> Tensor:
    batch = collate(windows_of(LENGTHS), np.array(members), pad_id=1)
    logits: Tensor = model(batch.input_ids, batch.attention_mask)
    return logits


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_text_alone_next_to_a_longer_one_and_next_to_shorter_ones_has_the_same_logits(
    encoder: str, pooling: str
) -> None:
    model = model_of(encoder, pooling)
    alone = padded(model, [0])
    for others in ([3], [1], [2, 4], [1, 2, 3, 4]):
        torch.testing.assert_close(padded(model, [0, *others])[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_packed_texts_have_the_logits_of_each_alone_or_the_encoder_is_refused(
    encoder: str, pooling: str
) -> None:
    model = model_of(encoder, pooling)
    alone = torch.cat([padded(model, [i]) for i in range(len(LENGTHS))])
    if encoder not in PACKED:
        with pytest.raises(ConfigError) as refused:
            use_packed_attention(model)
        assert re.fullmatch(r"fit\.attention=packed: .* use padded", str(refused.value))
        return
    use_packed_attention(model)
    order = [1, 0, 3, 2, 4]
    batch = collate_packed(windows_of(LENGTHS), np.array(order))
    with torch.inference_mode():
        packed = model(batch.input_ids, None, batch.packing)
    torch.testing.assert_close(packed, alone[order], atol=1e-5, rtol=0)
    for i in range(len(LENGTHS)):
        torch.testing.assert_close(padded(model, [i]), alone[i : i + 1], atol=1e-5, rtol=0)


def test_the_window_matters_to_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it these tests would show nothing of sliding windows."""
    local = padded(model_of("ModernBERT", "cls"), [0])
    config = transformers.ModernBertConfig(**_SHAPE, **_MODERNBERT | {"local_attention": 400})
    monkeypatch.setitem(ENCODERS, "ModernBERT", config)
    assert (local - padded(model_of("ModernBERT", "cls"), [0])).abs().max() > 1e-3


@pytest.mark.parametrize(("encoder", "positions"), [("RoBERTa", 128), ("BERT", 130)])
def test_a_text_may_have_as_many_tokens_as_the_encoder_has_positions_for(
    encoder: str, positions: int
) -> None:
    built = build_encoder(deepcopy(ENCODERS[encoder]))
    check_positions("it", built, positions)
    ids = torch.full((1, positions), 7)
    assert built(input_ids=ids).last_hidden_state.shape == (1, positions, 32)
    with pytest.raises(ConfigError, match=f"it has {positions} positions; allowed: at most"):
        check_positions("it", built, positions + 1)


@pytest.mark.parametrize(
    ("dtype", "capability", "head", "problem"),
    [
        (torch.bfloat16, (9, 0), 64, None),
        (torch.float16, (8, 0), 256, None),
        (torch.float16, (7, 5), 64, "the GPU has compute capability 7.5, below 8.0"),
        (torch.bfloat16, (9, 0), 320, "heads of 320 dimensions exceed 256"),
        (None, (9, 0), 64, "it computes in half precision only"),
    ],
)
def test_packed_attention_notes_why_it_cannot_use_the_kernel_of_the_gpu(
    quick: Build,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype | None,
    capability: tuple[int, int],
    head: int,
    problem: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    encoder = build_encoder(
        transformers.DistilBertConfig(dim=head, n_heads=1, hidden_dim=32, n_layers=1, vocab_size=90)
    )
    Inputs(
        quick("fit.attention=packed"),
        data,
        Worker(device="cuda", folder=tmp_path / "new"),
        MBTIModel(encoder, pooling="mean", dropout=0.0),
        dtype,
    )
    notes = tmp_path / "new" / "notes.txt"
    if problem is None:
        assert not notes.exists()
    else:
        (note,) = notes.read_text("utf-8").splitlines()
        assert f"without variable-length attention: {problem}; windows" in note


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_that_plans_for_every_shape_is_off_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    encoder = build_encoder(transformers.DistilBertConfig(**_SHAPE, dim=8, n_heads=1, n_layers=1))
    model, moved = MBTIModel(encoder, pooling="mean", dropout=0.0), []
    # There is no GPU to move it to.
    monkeypatch.setattr(MBTIModel, "to", lambda model, device: moved.append(device) or model)
    backends = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    try:
        backends.enable_cudnn_sdp(True)
        assert to_device(model, torch.device(device)) is model
        assert backends.cudnn_sdp_enabled() == (device == "cpu")
    finally:
        backends.enable_cudnn_sdp(before)
    assert moved == [torch.device(device)]
