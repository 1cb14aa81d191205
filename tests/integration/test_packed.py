"""Windows packed into one row are trained on exactly as padded ones are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, DistilBertConfig, PreTrainedConfig

from mbti_ray.config import RunConfig
from mbti_ray.data.collate import Packing, Pass, collate, collate_packed
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Interruption, Worker
from mbti_ray.errors import StoppedError
from mbti_ray.model.classifier import MBTIModel, use_packed_attention
from mbti_ray.model.encoder import build_encoder
from mbti_ray.model.loss import build_loss
from mbti_ray.model.packed_bert import PackedBert, packed_state

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]

SHAPES: dict[str, PreTrainedConfig] = {
    "distilbert": DistilBertConfig(
        vocab_size=90,
        max_position_embeddings=40,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=4,
        dropout=0.0,
        attention_dropout=0.0,
    ),
    "bert": BertConfig(
        vocab_size=90,
        max_position_embeddings=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
}


def windows_of(lengths: list[int], *, seed: int = 0) -> Windows:
    chance = np.random.default_rng(seed)
    count = len(lengths)
    columns = {p: pa.array(chance.integers(0, 2, count).astype(np.uint8)) for p in "entj"}
    rows = pa.table(
        {
            **columns,
            "number": pa.array(np.arange(count)),
            "post": pa.array(np.full(count, -1, np.int32)),
            "person": pa.array(np.arange(count, dtype=np.int32)),
            "mentioned": pa.array(np.full(count, -1, np.int8)),
            "text": pa.array([""] * count),
        }
    )
    ids = [chance.integers(5, 90, n).tolist() for n in lengths]
    return build_windows([EncodedRow([i], False) for i in ids], rows)


def model_of(shape: str, pooling: str) -> MBTIModel:
    torch.manual_seed(0)
    return MBTIModel(build_encoder(SHAPES[shape]), pooling=pooling, dropout=0.0).train()


def loss_of(model: MBTIModel, one: Pass, labels: Tensor, config: RunConfig) -> Tensor:
    logits = model(one.input_ids, one.attention_mask, one.packing)
    return build_loss(config.loss, None)(logits, labels).mean()


LENGTHS = {
    "ragged": [33, 20, 20, 19, 7, 7, 7, 2],
    "one window": [11],
    "equal": [9, 9, 9],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_logits_and_gradients_equal_those_of_padded_rows(
    quick: Build, shape: str, pooling: str, lengths: list[int]
) -> None:
    windows, members = windows_of(lengths), np.arange(len(lengths))
    found = []
    for batch, is_packed in (
        (collate(windows, members), False),
        (collate_packed(windows, members), True),
    ):
        model = model_of(shape, pooling)
        if is_packed:
            use_packed_attention(model)
        loss = loss_of(model, batch, torch.from_numpy(windows.labels).float(), quick())
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    (padded_loss, padded), (packed_loss, packed) = found
    torch.testing.assert_close(packed_loss, padded_loss, atol=1e-6, rtol=1e-5)
    assert packed.keys() == padded.keys()
    for name in packed:
        torch.testing.assert_close(packed[name], padded[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_bert_computes_what_the_encoder_of_transformers_does(
    shape: str, pooling: str, lengths: list[int]
) -> None:
    theirs = model_of(shape, pooling).eval()
    config = SHAPES[shape].to_dict()
    ours = MBTIModel(PackedBert(config), pooling=pooling, dropout=0.0).eval()
    ours.load_state_dict(packed_state(theirs.state_dict(), config))
    windows, members = windows_of(lengths), np.arange(len(lengths))
    padded, packed = collate(windows, members), collate_packed(windows, members)
    with torch.inference_mode():
        expected = theirs(padded.input_ids, padded.attention_mask)
        found = ours(packed.input_ids, packing=packed.packing)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_window_does_not_attend_to_its_neighbors() -> None:
    model = model_of("bert", "mean").eval()
    use_packed_attention(model)
    lengths = [12, 12, 8, 5]
    batch = collate_packed(windows_of(lengths), np.arange(4))
    changed = batch.input_ids.clone()
    changed[0, 12:24] = 6
    with torch.inference_mode():
        before = model(batch.input_ids, None, batch.packing)
        after = model(changed, None, batch.packing)
    assert not torch.equal(before[1], after[1])
    torch.testing.assert_close(before[[0, 2, 3]], after[[0, 2, 3]], atol=1e-6, rtol=0)


def test_a_packed_model_reads_padded_rows_as_before() -> None:
    windows, members = windows_of(LENGTHS["ragged"]), np.arange(8)
    batch = collate(windows, members)
    plain, packed = model_of("distilbert", "mean").eval(), model_of("distilbert", "mean").eval()
    use_packed_attention(packed)
    with torch.inference_mode():
        expected = plain(batch.input_ids, batch.attention_mask)
        assert torch.equal(packed(batch.input_ids, batch.attention_mask), expected)


def test_positions_restart_in_each_window() -> None:
    packing = Packing.of((3, 2, 1))
    assert packing.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert packing.owner.tolist() == [0, 0, 0, 1, 1, 2]
    assert packing.bounds.tolist() == [0, 3, 5, 6]


class StoppingOnce(Worker):
    """Is asked to stop once, at its first poll."""

    stops = False

    def poll_interruption(self) -> Interruption | None:
        return Interruption.STOP if self.stops else None


def test_a_packed_run_computes_no_padding_and_ends_like_the_padded_one(
    quick: Build, data: Dataset
) -> None:
    padded, packed = Worker(), Worker()
    run(quick("model.dropout=0"), data, padded, score_test=False)
    run(quick("model.dropout=0", "fit.attention=packed"), data, packed, score_test=False)
    assert padded.records[-1]["speed"]["padding"] > 0
    assert packed.records[-1]["speed"]["padding"] == 0
    assert packed.records[-1]["train"]["loss"] == pytest.approx(
        padded.records[-1]["train"]["loss"], abs=1e-3
    )


def test_a_packed_run_resumes_bit_for_bit(quick: Build, data: Dataset, tmp_path: Path) -> None:
    config = quick("fit.attention=packed", "fit.checkpoint_steps=3", "fit.epochs=2")
    whole = run(config, data, Worker(), score_test=False).model.state_dict()
    stopping = StoppingOnce(folder=tmp_path)
    stopping.stops = True
    with pytest.raises(StoppedError):
        run(config, data, stopping, score_test=False)
    resumed = run(config, data, Worker(folder=tmp_path), score_test=False).model.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_variable_length_attention_agrees_with_padded_rows() -> None:
    windows, members = windows_of(LENGTHS["ragged"]), np.arange(8)
    device = torch.device("cuda")
    logits = []
    for batch, is_packed in (
        (collate(windows, members), False),
        (collate_packed(windows, members), True),
    ):
        model = model_of("bert", "mean").to(device)
        if is_packed:
            use_packed_attention(model)
        there = batch.map(lambda tensor: tensor.to(device))
        with torch.autocast("cuda", torch.bfloat16), torch.inference_mode():
            logits.append(model(there.input_ids, there.attention_mask, there.packing).float())
    torch.testing.assert_close(logits[1], logits[0], atol=3e-2, rtol=0)
