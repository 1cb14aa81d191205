"""fit.precision=auto over several ranks, and checkpoints of one precision resumed in another."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from mbti_ray.config import RunConfig
from mbti_ray.config.schema import FitConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.engine import loop
from mbti_ray.engine.checkpoint import load_checkpoint
from mbti_ray.engine.loop import rescore, run
from mbti_ray.engine.precision import resolve_precision
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.predictor import Predictor
from mbti_ray.model.classifier import build_model
from mbti_ray.model.packed_attention import PACKED_ATTENTION

pytestmark = pytest.mark.integration

Build = Callable[..., RunConfig]
PRECISIONS = ("32", "16-mixed", "bf16-mixed")


class NamedAsGpu(Worker):
    """A worker that takes its device for a GPU; its sums are gloo's, on the CPU."""

    def all_reduce(self, values: Tensor) -> Tensor:
        named, self.device = self.device, torch.device("cpu")
        try:
            return super().all_reduce(values)
        finally:
            self.device = named


CPUS = {"plain": (False, False), "avx512": (True, False), "amx": (False, True)}
Device = tuple[int, int] | str


def resolved(rank: int, cases: Sequence[tuple[Device, ...]], hidden_size: int = 384) -> list[str]:
    """What auto means on a rank, for the compute capability or the CPU of both ranks."""
    found = []
    for case in cases:
        device = case[rank]
        avx512, amx = CPUS.get(str(device), (False, False))
        worker = NamedAsGpu(device="cpu" if isinstance(device, str) else "cuda")
        with (
            mock.patch.object(torch.cuda, "get_device_capability", return_value=device),
            mock.patch.object(torch.cpu, "_is_avx512_bf16_supported", return_value=avx512),
            mock.patch.object(torch.cpu, "_is_amx_tile_supported", return_value=amx),
        ):
            found.append(resolve_precision("auto", worker, hidden_size=hidden_size))
    return found


def test_auto_is_the_most_that_all_ranks_have_in_hardware(tmp_path: Path) -> None:
    cases = {
        ((9, 0), (8, 0)): "bf16-mixed",
        ((9, 0), (7, 5)): "16-mixed",
        ((7, 0), (8, 6)): "16-mixed",
        ((7, 0), (7, 5)): "16-mixed",
        ((9, 0), "plain"): "32",
        ("plain", "plain"): "32",
        ("avx512", "avx512"): "bf16-mixed",
        ("amx", "avx512"): "bf16-mixed",
        ("avx512", "plain"): "32",
    }
    first, second = run_ranks(resolved, tmp_path, list(cases))
    assert first == second == list(cases.values())


def test_auto_is_float32_for_an_encoder_too_small_to_gain_on_a_cpu() -> None:
    cases: list[tuple[Device, ...]] = [("amx",), ((9, 0),)]
    assert resolved(0, cases, hidden_size=64) == ["32", "bf16-mixed"]


def test_the_default_precision_is_auto() -> None:
    assert FitConfig().precision == "auto"


@pytest.mark.parametrize("before", PRECISIONS)
def test_a_checkpoint_resumes_and_scores_where_auto_means_another_precision(
    short: Build, short_data: Dataset, tmp_path: Path, before: str
) -> None:
    config = short("fit.epochs=2", "fit.batch_size=128")

    def where_auto_means(precision: str) -> Any:
        return mock.patch.object(loop, "resolve_precision", return_value=precision)

    folder = tmp_path / "first"
    with where_auto_means(before):
        run(config, short_data, Worker(folder=folder), score_test=False)
    first, last = sorted((folder / "checkpoints").iterdir())
    assert load_checkpoint(first).progress.precision == before
    for now in PRECISIONS:
        resumed = tmp_path / now
        shutil.copytree(first, resumed / "checkpoints" / first.name)
        with where_auto_means(now):
            worker = Worker(folder=resumed)
            assert run(config, short_data, worker, score_test=False).progress.epoch == 2
            assert rescore(config, short_data, Worker(), [last]).test["rows"] > 0
        notes = resumed / "notes.txt"
        assert notes.exists() == (now != before)
        if now != before:
            assert notes.read_text() == f"resumed in precision {now}, after training in {before}\n"


def test_a_run_on_a_cpu_trains_with_the_attention_that_is_faster_there(
    short: Build, short_data: Dataset
) -> None:
    config = short("fit.epochs=1", "fit.batch_size=256")
    encoder = run(config, short_data, Worker()).model.encoder
    assert encoder.config._attn_implementation == PACKED_ATTENTION


@pytest.mark.parametrize("trainable", ["all", "heads"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_the_final_scores_of_a_mixed_precision_run_are_those_that_its_bundle_serves(
    short: Build, short_data: Dataset, tmp_path: Path, precision: str, trainable: str
) -> None:
    config = short(f"fit.precision={precision}", f"model.trainable={trainable}", "fit.epochs=1")
    outcome = run(config, short_data, Worker())
    write_bundle(tmp_path / "b", config=config, model=outcome.model, data=short_data, scores={})
    predictor = Predictor.load(tmp_path / "b")
    for split, logits in (("val", outcome.val_logits), ("test", outcome.test_logits)):
        texts = [text.split("\n") for text in short_data.splits[split].texts]
        served = predictor.predict_logits(texts, whole=True, is_preprocessed=True).values
        torch.testing.assert_close(served.double(), logits, atol=1e-5, rtol=0)


def test_heads_are_computed_in_float32_under_autocast(quick: Build, data: Dataset) -> None:
    model = build_model(quick().model, vocabulary=len(data.tokenizer), seed=0).eval()
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features, logits = model.features(ids, None), model(ids, None)
    assert logits.dtype == torch.float32
    expected = features.float() @ model.heads.weight.detach().T + model.heads.bias.detach()
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
