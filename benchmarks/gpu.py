"""The engine and a replica on a GPU: whether they are right there, and how fast, in one go.

    python benchmarks/gpu.py [--output FILE.json] [--windows 8675] [--epochs 10] [--budget 420]
        [--tiny]

Needs neither Ray nor a hub: a DistilBERT with random weights (right for speed, and for comparing
precisions) and random tokens, one window of 512 tokens a user; beyond torch and transformers only
pydantic, pyarrow, PyYAML, fastapi and ftfy. After `--budget` seconds no part begins; one that has
begun may take three minutes. What is done is in the file at once.
First the checks of benchmarks/gpu_checks.py (out of memory, resuming in another precision, a flood
of requests, golden texts, graphs of torch.compile, gradients of the focal loss, packed against
padded attention and its fallback), then through `engine.loop.run`:

    precision  the training loss after one epoch in 32, bf16-mixed and 16-mixed, same seed
    memory     the most that the card held at batch 16
    train      seconds of training for all epochs in bf16, and the share of the matrix-product rate
               that the same card reaches in the same run on 8192-cubes of bf16
    attention  windows of 16 to 512 tokens in bf16, padded to the longest of a batch against packed
               one behind the other (torch's variable-length attention), alternating, medians of 3

`--tiny` runs all of it on any machine with a small encoder; its numbers mean nothing. The last line
is one JSON object: `verdicts` of each check and goal (true, false, or null: not shown), train_s,
matmul_share, peak_gib_at_batch_16, largest_loss_gap, packed_vs_padded (training speed), and
replica_texts_s.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from gpu_checks import CHECKS, Bench

from mbti_ray.config import load_run
from mbti_ray.config.schema import RunConfig
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.rows import DatasetInfo
from mbti_ray.data.tokenizer import build_tokenizer
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker

POLES = "entj"
SLOW = ("compile",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--windows", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--budget", type=float, default=420, help="seconds")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    windows = options.windows or (64 if options.tiny else 8675)
    epochs = options.epochs or (1 if options.tiny else 10)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = 32 if options.tiny else 512
    end = time.monotonic() + options.budget
    result: dict[str, Any] = {
        "machine": machine(device),
        "windows": windows,
        "tokens_a_window": tokens,
        "epochs": epochs,
        "checks": {},
    }

    def keep(name: str, found: dict[str, Any], place: dict[str, Any]) -> None:
        place |= found
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        exact = save_encoder(folder / "exact", tokens, tiny=options.tiny, dropout=0.0)
        bench = Bench(
            device,
            str(folder / "exact"),
            tokens,
            random_dataset(min(windows, 256), tokens, exact.vocab_size),
            random_dataset(min(windows, 256), tokens, exact.vocab_size, shortest=16),
            folder,
        )

        def check(names: Iterable[str]) -> None:
            for name in names:
                found = tried(partial(CHECKS[name], bench), end)
                keep(name, {name: found}, result["checks"])

        # What compiles for minutes comes last.
        check(name for name in CHECKS if name not in SLOW)
        encoder = folder / "encoder"
        shape = save_encoder(encoder, tokens, tiny=options.tiny)
        data = random_dataset(windows, tokens, shape.vocab_size)
        ragged = random_dataset(windows, tokens, shape.vocab_size, shortest=16)
        for part in (
            partial(measure, str(encoder), data, device, epochs, tokens, shape),
            partial(compare_attention, str(encoder), ragged, device, tokens),
        ):
            keep(part.func.__name__, tried(part, end), result)
        check(SLOW)
    keys = ("train_s", "matmul_share", "peak_gib_at_batch_16", "largest_loss_gap")
    figures = {key: result.get(key) for key in (*keys, "packed_vs_padded")}
    figures["replica_texts_s"] = result["checks"]["serve"].get("texts_s")
    is_real = device == "cuda" and not options.tiny
    print(json.dumps({"verdicts": verdicts(result, is_real=is_real), **figures}))
    return 0


def tried(part: Callable[[], dict[str, Any]], end: float) -> dict[str, Any]:
    """The figures of a part, or why there are none: one failure must not cost the others."""
    if time.monotonic() > end:
        return {"ok": None, "why": "not begun: the time was up"}
    begun = time.monotonic()
    try:
        return {**part(), "took_s": time.monotonic() - begun}
    except Exception as error:
        trace = traceback.format_exc()
        return {"ok": False, "why": f"{type(error).__name__}: {error}", "trace": trace}


def verdicts(result: dict[str, Any], *, is_real: bool) -> dict[str, bool | None]:
    """Of every check, and of the goals on a card."""
    goals = {
        "train_s < 60": lambda: result["train_s"] < 60,
        "matmul_share >= 0.4": lambda: result["matmul_share"] >= 0.4,
        "peak_gib < 4": lambda: result["peak_gib_at_batch_16"] < 4,
    }
    found = {name: check["ok"] for name, check in result["checks"].items()}
    measured = is_real and "train_s" in result
    return found | {name: bool(goal()) if measured else None for name, goal in goals.items()}


def measure(
    encoder: str, data: Dataset, device: str, epochs: int, tokens: int, shape: Any
) -> dict[str, Any]:
    """All three measurements, the long one last, when the card is warm."""
    base = [f"model.encoder={encoder}", f"model.max_tokens={tokens}", "fit.patience=null"]
    one = [*base, "fit.epochs=1", "fit.batch_size=16", "fit.accumulate=4"]
    mixed = ("bf16-mixed", "16-mixed") if device == "cuda" else ("bf16-mixed",)
    losses, peak = {}, 0.0
    for precision in ("32", *mixed):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        line = train([*one, f"fit.precision={precision}"], data, device)
        losses[precision] = line["train"]["loss"]
        if precision == mixed[-1]:
            peak = line["speed"]["memory_mib"] / 1024
    long = [*base, f"fit.epochs={epochs}", "fit.batch_size=64", "fit.accumulate=1"]
    line = train([*long, "fit.precision=bf16-mixed"], data, device)
    trained = len(data.splits["train"]) * tokens * epochs
    rate = flops_a_token(shape, tokens) * trained / line["seconds"]
    card = matmul_rate(device)
    return {
        "losses_after_one_epoch": losses,
        "largest_loss_gap": max(abs(loss - losses["32"]) for loss in losses.values()),
        "peak_gib_at_batch_16": peak,
        "train_s": line["seconds"],
        "last_line": line,
        "flop_s": rate,
        "matmul_flop_s": card,
        "matmul_share": rate / card,
    }


def compare_attention(encoder: str, data: Dataset, device: str, tokens: int) -> dict[str, Any]:
    """Training windows of many lengths, padded and packed."""
    base = [f"model.encoder={encoder}", f"model.max_tokens={tokens}", "fit.epochs=1"]
    base += ["fit.batch_size=64", "fit.accumulate=1", "fit.precision=bf16-mixed"]
    lines: dict[str, list[dict[str, Any]]] = {"padded": [], "packed": []}
    for _ in range(3):
        for attention, kept in lines.items():
            kept.append(train([*base, f"fit.attention={attention}"], data, device))
    seconds = {a: float(np.median([line["seconds"] for line in n])) for a, n in lines.items()}
    return {
        "attention": {
            a: [{"seconds": n["seconds"], **n["speed"], "loss": n["train"]["loss"]} for n in found]
            for a, found in lines.items()
        },
        "packed_vs_padded": seconds["padded"] / seconds["packed"],
    }


def train(settings: list[str], data: Dataset, device: str) -> dict[str, Any]:
    """The last line of a run under the preset default with these settings."""
    config: RunConfig = load_run("default", settings)
    worker = Worker(device=device)
    run(config, data, worker, score_test=False)
    return dict(worker.records[-1])


def flops_a_token(shape: Any, tokens: int) -> float:
    """Floating-point operations of a training step for one token of a full window.

    Matrix products count 2 forward and 4 backward for each weight (Kaplan et al. 2020); attention
    adds two products of tokens x width a layer, forward and twice backward.
    """
    weights = shape.n_layers * (4 * shape.dim**2 + 2 * shape.dim * shape.hidden_dim)
    return float(6 * weights + 12 * shape.n_layers * shape.dim * tokens)


def matmul_rate(device: str) -> float:
    """Operations a second that a square bf16 product reaches here: the median of several."""
    size, repeats = (8192, 20) if device == "cuda" else (1024, 3)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _wait(device)
        seconds.append((time.perf_counter() - started) / repeats)
    return 2 * size**3 / float(np.median(seconds))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def save_encoder(folder: Path, tokens: int, *, tiny: bool, dropout: float = 0.1) -> Any:
    """A DistilBERT with random weights as a folder that `model.encoder` takes."""
    small = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4} if tiny else {}
    drop = {"dropout": dropout, "attention_dropout": dropout}
    shape = transformers.DistilBertConfig(max_position_embeddings=tokens, **drop, **small)
    torch.manual_seed(0)
    transformers.DistilBertModel(shape).save_pretrained(folder)
    return shape


def random_dataset(
    count: int, tokens: int, vocabulary: int, *, shortest: int | None = None
) -> Dataset:
    """Windows of random tokens, all full or of any length from `shortest`; a few to validate on."""
    tokenizer = build_tokenizer("tiny", ["some words"])
    random = np.random.default_rng(0)
    splits = {
        name: _windows(random.integers(5, vocabulary, (n, tokens)), random, shortest or tokens)
        for name, n in (("train", count), ("val", 64), ("test", 64))
    }
    rows = {name: part.row_count for name, part in splits.items()}
    info = DatasetInfo("random", "random", "user", "user", rows, 0, [], [], 0, 0)
    return Dataset(splits, tokenizer, info, Path("random"))


def _windows(ids: Any, random: np.random.Generator, shortest: int) -> Windows:
    labels = random.integers(0, 2, (len(ids), 4)).astype(np.uint8)
    columns = dict(zip(POLES, labels.T, strict=True))
    numbers = {"number": np.arange(len(ids)), "person": np.arange(len(ids), dtype=np.int32)}
    shares = pa.nulls(len(ids), pa.list_(pa.float32(), 4))
    lengths = random.integers(shortest, ids.shape[1] + 1, len(ids))
    packed = [EncodedRow([row[:n].tolist()], False) for row, n in zip(ids, lengths, strict=True)]
    return build_windows(packed, pa.table({**columns, **numbers, "shares": shares}))


def machine(device: str) -> dict[str, Any]:
    """The machine and versions of the measurement."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


if __name__ == "__main__":
    raise SystemExit(main())
