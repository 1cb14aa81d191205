"""What benchmarks/gpu.py checks before it measures: each check returns figures, and `ok`.

On a CPU the same code runs with a pretended limit of memory; what only a card can show says so.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers

from mbti_ray.config import load_run
from mbti_ray.config.loss_section import LossConfig
from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.data.collate import Pass, collate, collate_packed
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.engine import step as steps
from mbti_ray.engine.loop import Outcome, run
from mbti_ray.engine.precision import autocast
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.bundle_writer import write_bundle
from mbti_ray.inference.predictor import Predictor
from mbti_ray.model.classifier import MBTIModel, build_model, use_packed_attention
from mbti_ray.model.encoder import build_encoder
from mbti_ray.model.loss import build_loss
from mbti_ray.serving.schemas import APIError, ErrorCode, TextsRequest
from mbti_ray.serving.served_model import ServedModel, warm_up

PRECISIONS = ("32", "bf16-mixed", "16-mixed")
# Where a CPU pretends that memory ends.
_WINDOWS_OF_A_CPU = 4


@dataclass(frozen=True)
class Bench:
    """What the checks share.

    Attributes:
        encoder: Folder of an encoder without dropout, so that batches of other sizes train alike.
        full: Windows of full length; `ragged` are of any length.
        folder: For bundles, checkpoints and caches.
    """

    device: str
    encoder: str
    tokens: int
    full: Dataset
    ragged: Dataset
    folder: Path

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    def train(self, data: Dataset, *settings: str, folder: Path | None = None) -> "Trained":
        """One run under the preset default with these settings."""
        base = [f"model.encoder={self.encoder}", f"model.max_tokens={self.tokens}"]
        worker = Worker(device=self.device, folder=folder)
        config = load_run("default", [*base, "model.dropout=0", "fit.patience=null", *settings])
        return Trained(run(config, data, worker, score_test=False), worker)


@dataclass(frozen=True)
class Trained:
    outcome: Outcome
    worker: Worker

    @property
    def line(self) -> dict[str, Any]:
        return dict(self.worker.records[-1])

    @property
    def loss(self) -> float:
        return float(self.line["train"]["loss"])


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """A run that does not fit halves its batches, and trains as the one that does."""
    settings = ("fit.epochs=1", "fit.batch_size=16", "fit.accumulate=1", "fit.precision=32")
    whole = bench.train(bench.full, *settings)
    halvings = 0
    halve = steps.Stepper._halve

    def counted(stepper: steps.Stepper, step: Any) -> None:
        nonlocal halvings
        halvings += 1
        halve(stepper, step)

    with mock.patch.object(steps.Stepper, "_halve", counted), _small_memory(bench, whole):
        halved = bench.train(bench.full, *settings)
    gap = abs(whole.loss - halved.loss)
    return {"halvings": halvings, "loss_gap": gap, "ok": halvings > 0 and gap < 1e-3}


@contextmanager
def _small_memory(bench: Bench, before: Trained) -> Iterator[None]:
    if bench.is_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        peak = before.line["speed"]["memory_mib"] * 2**20
        del before
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    forward = MBTIModel.forward

    def limited(model: MBTIModel, batch: Any, *more: Any, **options: Any) -> Any:
        ids = batch.input_ids if isinstance(batch, Pass) else batch
        if model.training and len(ids) > _WINDOWS_OF_A_CPU:
            raise torch.OutOfMemoryError("pretended")
        return forward(model, batch, *more, **options)

    with mock.patch.object(MBTIModel, "forward", limited):
        yield


def resume(bench: Bench) -> dict[str, Any]:
    """A checkpoint of each precision continues in each other one."""
    settings = ("fit.epochs=2", "fit.batch_size=16", "fit.accumulate=4")
    losses = {}
    for before in PRECISIONS:
        folder = bench.folder / f"resume-{before}"
        bench.train(bench.full, *settings, f"fit.precision={before}", folder=folder)
        first = min((folder / "checkpoints").iterdir())
        for now in PRECISIONS:
            again = bench.folder / f"resume-{before}-{now}"
            shutil.copytree(first, again / "checkpoints" / first.name)
            found = bench.train(bench.full, *settings, f"fit.precision={now}", folder=again)
            shutil.rmtree(again)
            losses[f"{before} to {now}"] = found.loss
    gap = max(losses.values()) - min(losses.values())
    return {"losses": losses, "loss_gap": gap, "ok": len(losses) == 9 and gap < 0.02}


def serve(bench: Bench) -> dict[str, Any]:
    """A flood is refused with 429 while the event loop answers, at a speed that is believed."""
    predictor = Predictor.load(_bundle(bench), device=bench.device, precision="auto")
    config = ServeConfig(
        gpus=1.0 if bench.is_gpu else 0.0, max_wait_s=0.5 if bench.is_gpu else 0.05
    )
    clients, wanted_s = (256, 10) if bench.is_gpu else (16, 1)
    # Texts that fill the windows, so that the model is the bottleneck and not the tokenizer.
    texts = [f"{n} " + "quiet evenings with books and tea " * 20 for n in range(64)]
    refused: list[APIError] = []
    stalls: list[float] = []
    done = 0

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            stalls.append(time.perf_counter() - started - 0.005)

    async def flood(model: ServedModel, end: float) -> None:
        nonlocal done
        while time.perf_counter() < end:
            try:
                # `done += await …` would add to what it was before the wait.
                found = await model.predict(TextsRequest(inputs=texts))
                done += len(found.predictions)
            except APIError as error:
                refused.append(error)
                await asyncio.sleep(0.05)

    async def main(model: ServedModel) -> float:
        ticking = asyncio.create_task(tick())
        started = time.perf_counter()
        await asyncio.gather(*(flood(model, started + wanted_s) for _ in range(clients)))
        ticking.cancel()
        return time.perf_counter() - started

    with ThreadPoolExecutor(1) as executor:
        speed = warm_up(predictor, {1: executor}, config)
        model = ServedModel(predictor, {1: executor}, config, tokens_per_s=speed)
        seconds = asyncio.run(main(model))
    kinds = {error.code for error in refused}
    stall = float(np.quantile(stalls, 0.99))
    return {
        "texts_s": done / seconds,
        "believed_tokens_s": speed,
        "refused": len(refused),
        "stall_ms": 1000 * stall,
        "ok": kinds == {ErrorCode.QUEUE_FULL} and done > 0 and (stall < 0.05 or not bench.is_gpu),
    }


def golden(bench: Bench) -> dict[str, Any]:
    """Golden texts made on a CPU hold in every precision, and with TF32 switched on."""
    bundle, gaps = _bundle(bench), {}
    kinds = ("32", "bf16", "fp16") if bench.is_gpu else ("32", "bf16")
    with ExitStack() as undo:
        for name in (*kinds, "32 with TF32"):
            if name == "32 with TF32":
                backend = torch.backends.cuda.matmul
                undo.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                backend.fp32_precision = "tf32"
            precision: Any = name.split()[0]
            predictor = Predictor.load(bundle, device=bench.device, precision=precision)
            expected = torch.tensor(predictor.runtime.golden)
            gaps[name] = float((predictor.golden_logits() - expected).abs().max())
    # `Predictor.load` has raised BundleError where one was not reproduced.
    return {"gaps": gaps, "largest_logit": float(expected.abs().max()), "ok": gaps["32"] < 1e-3}


def compile_graphs(bench: Bench) -> dict[str, Any]:
    """Gradual training compiles each stage anew, and its last one is not run eagerly."""
    if not bench.is_gpu:
        return {"ok": None, "why": "tests/integration/test_compiled.py compiles on a CPU"}
    settings = ("fit.epochs=3", "model.trainable=gradual", "fit.precision=bf16-mixed")
    eager = bench.train(bench.ragged, *settings)
    folder = bench.folder / "compiled"
    compiled = bench.train(bench.ragged, *settings, "fit.compile=true", folder=folder)
    notes = (folder / "notes.txt").read_text("utf-8")
    gap = abs(eager.loss - compiled.loss)
    return {"notes": notes, "loss_gap": gap, "ok": "graphs" in notes and gap < 0.02}


def focal_gradients(bench: Bench) -> dict[str, Any]:
    """Finite for gamma below 1 at logits far beyond 18."""
    logits = torch.linspace(-60, 60, 48, device=bench.device).view(-1, 4).requires_grad_()
    labels = torch.randint(0, 2, logits.shape, device=bench.device).float()
    build_loss(LossConfig(kind="focal", gamma=0.5), None)(logits, labels).sum().backward()
    assert logits.grad is not None
    return {"largest": float(logits.grad.abs().max()), "ok": bool(logits.grad.isfinite().all())}


def packed(bench: Bench) -> dict[str, Any]:
    """A text alone, padded beside a longer one and packed has the same logits, windows or not."""
    windows = bench.ragged.splits["val"]
    order = np.argsort(-windows.lengths, kind="stable")[:8]
    shape: dict[str, Any] = {"vocab_size": 30522, "num_hidden_layers": 3, "pad_token_id": 0}
    shape |= {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
    shape |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    kinds = {
        "BERT": transformers.BertConfig(**shape),
        "ModernBERT": transformers.ModernBertConfig(
            **shape, local_attention=16, global_attn_every_n_layers=3
        ),
    }
    gaps: dict[str, float] = {}
    for name, kind in kinds.items():
        torch.manual_seed(0)
        model = MBTIModel(build_encoder(kind), pooling="mean", dropout=0.0).to(bench.device).eval()
        ours = deepcopy(model)
        use_packed_attention(ours)
        for precision, dtype in (("32", None), ("bf16", torch.bfloat16)):

            @torch.inference_mode()
            def logits(
                model: MBTIModel, given: Pass, dtype: torch.dtype | None = dtype
            ) -> torch.Tensor:
                on = given.map(lambda t: t.to(bench.device))
                with autocast(torch.device(bench.device), dtype):
                    return model(on.input_ids, on.attention_mask, on.packing).float()

            alone = torch.cat([logits(model, collate(windows, order[i : i + 1])) for i in range(8)])
            for way, found in (
                ("padded", logits(model, collate(windows, order))),
                ("packed", logits(ours, collate_packed(windows, order))),
            ):
                gaps[f"{name} {way} {precision}"] = float((found - alone).abs().max())
    exact = max(gap for name, gap in gaps.items() if name.endswith("32"))
    return {"gaps": gaps, "ok": exact < 1e-5 and max(gaps.values()) < 0.05}


def attention_fallback(bench: Bench) -> dict[str, Any]:
    """Float32, for which there is no variable-length attention, trains packed, and says so."""
    folder = bench.folder / "fallback"
    settings = ("fit.epochs=1", "fit.precision=32", "fit.batch_size=16")
    found = bench.train(bench.ragged, *settings, "fit.attention=packed", folder=folder)
    gap = abs(found.loss - bench.train(bench.ragged, *settings).loss)
    notes = (folder / "notes.txt").read_text("utf-8") if bench.is_gpu else ""
    said = "variable-length attention" in notes
    return {"notes": notes, "loss_gap": gap, "ok": gap < 1e-3 and said == bench.is_gpu}


def _bundle(bench: Bench) -> Path:
    """A bundle of the encoder with fresh heads over the built-in corpus; made once."""
    folder = bench.folder / "bundle"
    if not folder.exists():
        settings = [f"model.encoder={bench.encoder}", f"model.max_tokens={bench.tokens}"]
        config = load_run("default", settings)
        tiny = load_run("quick", [f"model.max_tokens={bench.tokens}"])
        data = prepare_dataset(tiny, bench.folder / "cache")
        model = build_model(config.model, vocabulary=len(data.tokenizer), seed=0)
        write_bundle(folder, config=config, model=model, data=data, scores={})
    return folder


CHECKS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "out_of_memory": out_of_memory,
    "resume": resume,
    "serve": serve,
    "golden": golden,
    "compile": compile_graphs,
    "focal_gradients": focal_gradients,
    "packed": packed,
    "attention_fallback": attention_fallback,
}
