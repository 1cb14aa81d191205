"""Training speed, side by side: this engine, HF Trainer, HF Trainer grouping by length, Lightning.

    python benchmarks/train.py [--source FILE.csv] [--quick]

One run, same model with the same weights, same windows, same 32 windows an optimizer step, AdamW,
in bf16 autocast where the device has it in hardware, else in float32; the sides alternate, and the
medians of several repeats count. What is timed is the training loop alone, from the first batch to
the last update; each side has trained a little before. Only the loop, the sampler and the collator
differ; all clip gradients at 1 and use fused AdamW (in bf16 Lightning's cannot be fused):

    ours         engine.loop.run, as `python -m mbti_ray.train` runs it
    packed       the same with fit.attention=packed, which pads nothing
    hf           transformers.Trainer with DataCollatorWithPadding, at the same precision
    hf_grouped   the same with train_sampling_strategy="group_by_length"
    hf_default   as hf, in float32, which is its default
    lightning    lightning.Trainer with a shuffled, padding DataLoader

`matmul_share` is the speed of our steps over that of a 2048-cube product (8192 on a GPU) at the
same precision and in the same minute, counting only what real tokens need. Needs `pip install
'mbti_ray[bench,minilm]'`. The last line is one JSON object: vs_hf, vs_hf_grouped, vs_hf_default,
vs_lightning (of real tokens a second), padding_share, matmul_share, bf16_vs_fp32_at_256 (our speed
on windows of 256 tokens; null without bf16 in hardware), and texts_s of each side.

All sides of 640 windows take about 95 s a repeat on two cores. Where the machine is alone for less,
`--sides hf hf_grouped --cache DIR` measures some of them against ours, without the last of these.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extra import require_bench
from torch import nn
from train_sides import SIDES, Counting, Run, Task, padded, transformers, wait, with_fit

from mbti_ray.config import load_run
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.windows import EncodedRow, Windows, build_windows
from mbti_ray.engine.precision import resolve_precision
from mbti_ray.engine.worker import Worker
from mbti_ray.model.loss import build_loss

RESULTS = Path(__file__).parent / "results"
WARM_UP_WINDOWS = 96


@dataclass
class Measured:
    """Every repeat of every side, with the speed of the matrix product next to each of ours."""

    runs: dict[str, list[Run]]
    matmul_flop_s: list[float] = field(default_factory=list)


def check_same_task(task: Task) -> None:
    """Stop unless the engine's loss and the trainers' agree on a batch: one model, one task."""
    batch, model = padded(task.examples()[: task.batch_size]), task.model().eval()
    with torch.inference_mode():
        theirs = Counting(model)(**batch)["loss"]
        logits = model(batch["input_ids"], batch["attention_mask"].bool())
        mine = build_loss(task.config.loss, None)(logits, batch["labels"]).mean()
    if not abs(float(theirs - mine)) < 1e-5:
        sys.exit(f"the sides train on different losses: {float(mine)} and {float(theirs)}")


def measure(task: Task, warm_up: Task, repeats: int, sides: Sequence[str]) -> Measured:
    check_same_task(warm_up)
    for name in sides:
        SIDES[name](warm_up)
    measured = Measured({name: [] for name in sides})
    for repeat in range(repeats):
        for name in sides:
            measured.runs[name].append(SIDES[name](task))
            if name == "ours":
                measured.matmul_flop_s.append(matmul_rate(task))
        seconds = {name: round(found[-1].seconds, 1) for name, found in measured.runs.items()}
        print(f"repeat {repeat + 1}: {seconds}", flush=True)
    return measured


def summary(task: Task, measured: Measured) -> dict[str, Any]:
    """Medians over the repeats."""
    real, count = int(task.windows.lengths.sum()), len(task.windows)
    seconds = {
        name: statistics.median(r.seconds for r in found) for name, found in measured.runs.items()
    }
    rates = [
        flops(task) / r.seconds / speed
        for r, speed in zip(measured.runs["ours"], measured.matmul_flop_s, strict=True)
    ]
    return {
        **{f"vs_{name}": seconds[name] / seconds["ours"] for name in seconds if name != "ours"},
        "padding_share": 1 - real / measured.runs["ours"][0].computed,
        "matmul_share": statistics.median(rates),
        "texts_s": {name: count / s for name, s in seconds.items()},
        "tokens_s": {name: real / s for name, s in seconds.items()},
        "padding": {name: 1 - real / found[0].computed for name, found in measured.runs.items()},
        "loss": {name: found[0].loss for name, found in measured.runs.items()},
    }


def flops(task: Task) -> float:
    """Operations that training on the windows once needs, of real tokens only.

    A weight in a matrix product takes 2 forward and 4 backward for a token (Kaplan et al. 2020);
    attention's two products of T x T x H take 12 T^2 H a layer in all. Embeddings take none.
    """
    encoder = task.model().encoder
    weights = sum(m.weight.numel() for m in encoder.modules() if isinstance(m, nn.Linear))
    shape: Any = encoder.config
    layers, hidden = shape.num_hidden_layers, shape.hidden_size
    lengths = task.windows.lengths.astype(float)
    return float(6 * weights * lengths.sum() + 12 * layers * hidden * (lengths**2).sum())


def bf16_vs_fp32(task: Task, repeats: int) -> float | None:
    """Our speed in bf16 over that in float32, alternating."""
    if not task.is_bf16:
        return None
    ratios = []
    for _ in range(repeats + 1):
        exact, rounded = (SIDES["ours"](with_fit(task, precision=p)) for p in ("32", "bf16-mixed"))
        ratios.append(exact.seconds / rounded.seconds)
    # The first is the warm-up.
    return statistics.median(ratios[1:])


def matmul_rate(task: Task) -> float:
    """Operations a second of a square product: the best of several, since it is a ceiling."""
    device, size = task.device, 8192 if task.device == "cuda" else 2048
    dtype = torch.bfloat16 if task.is_bf16 else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def some_windows(data: Dataset, count: int, *, seed: int) -> Dataset:
    """The dataset with so many windows of its training split, taken at random, and few others."""
    random = np.random.default_rng(seed)

    def part(windows: Windows, size: int) -> Windows:
        # One window a row, as single posts are.
        chosen = np.sort(random.permutation(len(windows))[:size])
        bounds = [(windows.offsets[i], windows.offsets[i + 1]) for i in chosen]
        packed = [EncodedRow([windows.ids[a:b].tolist()], truncated=False) for a, b in bounds]
        return build_windows(packed, windows.rows.take(windows.row_index[chosen]))

    splits = {n: part(w, count if n == "train" else 8) for n, w in data.splits.items()}
    return Dataset(splits, data.tokenizer, data.info, data.folder)


def long_windows(data: Dataset, count: int, tokens: int) -> Dataset:
    """Windows of so many tokens each, from the training split's one behind the other."""
    train = data.splits["train"]
    ids = np.resize(train.ids, (count, tokens))
    packed = [EncodedRow([row.tolist()], truncated=False) for row in ids]
    long = build_windows(packed, train.rows.take(np.arange(count) % train.row_count))
    return Dataset({**data.splits, "train": long}, data.tokenizer, data.info, data.key)


def machine(device: str) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    packages = ("torch", "transformers", "accelerate", "lightning")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        **{name: version(name) for name in packages if find_spec(name)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, help="default: the built-in corpus")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--windows", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--cache", type=Path, help="where the prepared data stays; default: not")
    parser.add_argument("--quick", action="store_true", help="fewer windows, three repeats")
    parser.add_argument("--output", type=Path, help="default: train.json, or train_quick.json")
    options = parser.parse_args()
    needs = {side: "accelerate" for side in ("hf", "hf_grouped", "hf_default")}
    needs["lightning"] = "lightning"
    require_bench(*dict.fromkeys(needs[side] for side in options.sides if side in needs))
    name = "train_quick.json" if options.quick else "train.json"
    output = options.output or RESULTS / name
    if options.quick:
        options.windows, options.repeats = min(options.windows, 640), 3
    # The other sides are measured against it.
    options.sides = list(dict.fromkeys(["ours", *options.sides]))
    _be_quiet()
    load = os.getloadavg()[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = resolve_precision("auto", Worker(device=device), hidden_size=384)
    config = load_run(
        "minilm",
        [
            f"model.encoder={options.encoder}",
            f"data.source={options.source or 'builtin'}",
            "data.unit=post",
            "data.split_by=post" if options.source else "data.split_by=auto",
            "fit.epochs=1",
            f"fit.precision={precision}",
            # One rate for all weights and no warm-up, as the other sides have it.
            "optim.head_lr=null",
            "optim.warmup_steps=0",
        ],
    )
    is_whole = options.sides == list(SIDES)
    with tempfile.TemporaryDirectory() as temporary:
        data = prepare_dataset(config, options.cache or Path(temporary))
        task = Task(config, some_windows(data, options.windows, seed=0), device)
        warm_up = Task(config, some_windows(data, WARM_UP_WINDOWS, seed=1), device)
        measured = measure(task, warm_up, options.repeats, options.sides)
        long = Task(config, long_windows(warm_up.data, 64, 256), device)
        at_256 = bf16_vs_fp32(long, 3) if is_whole else None
    result = {"precision": precision, **summary(task, measured), "bf16_vs_fp32_at_256": at_256}
    raw = {
        "command": f"python benchmarks/train.py --source {options.source and options.source.name}"
        f" --windows {options.windows} --repeats {options.repeats}"
        + ("" if is_whole else f" --sides {' '.join(options.sides[1:])}"),
        "machine": machine(device),
        "load_before": load,
        "encoder": options.encoder,
        "windows": len(task.windows),
        "tokens": int(task.windows.lengths.sum()),
        "medians": result,
        "runs": {name: [vars(r) for r in found] for name, found in measured.runs.items()},
        "matmul_flop_s": measured.matmul_flop_s,
    }
    output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps(result))
    return 0


def _be_quiet() -> None:
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    raise SystemExit(main())
