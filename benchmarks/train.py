"""Training speed beside Hugging Face Trainer and Lightning, in one run on one machine.

    pip install accelerate lightning
    python benchmarks/train.py [--source FILE.csv] [--quick] [--windows N] [--repeats R]

All sides train the same model (same encoder, pooling, dropout, heads and first weights) on the same
windows, once each, with the same batch, learning rate, decay, clipping, precision and threads; no
evaluation, no checkpoints, no bars. They take turns, R times, each time on a fresh model:

    ours        engine.fit.run: batches of similar length, made ahead
    hf          transformers.Trainer with DataCollatorWithPadding: random batches, its default
    hf_grouped  the same with train_sampling_strategy="group_by_length"
    lightning   lightning.Trainer, a plain LightningModule, a shuffled DataLoader of padded batches;
                "missing" where lightning is not installed

AdamW is each side's usual one: fused in ours and in Trainer, torch's default under Lightning; the
optimiser that really stepped stands in the file. Timed is the loop alone, from before the first
batch to the end of the last update. Padding is counted where it is paid for, at the encoder.

Between any two sides the machine's matrix products are timed, with the same threads: a square one
(of 2048; on a GPU, in bf16, also of 8192), and the encoder's own linear maps, forward and backward,
at the real tokens of a mean batch. `matmul_share` is what training achieves of the square's speed,
real tokens only: a window of T tokens needs 6 P T + 12 L H T^2 operations, with P weights in the
encoder's linear maps (2 a token forward, 4 backward), L layers and H dimensions (two products of
T x T x H a layer, forward and twice backward). All else the model does counts as nothing.

`--encoder random-distilbert` needs neither package nor hub: a DistilBERT with random weights and a
tokenizer made from the texts. The last line is one JSON object: vs_hf, vs_hf_grouped, vs_lightning
(ratios of the medians of real tokens/s), padding_share, matmul_share, matmul_share_own_shapes (all
three ours), texts_s of each side.
"""

import argparse
import gc
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, DistilBertConfig, DistilBertModel

from mbti_ray.config import load_run
from mbti_ray.config.schema import RunConfig
from mbti_ray.data.batches import collate, plan_epoch
from mbti_ray.data.prepare import Dataset, prepare_dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.fit import run
from mbti_ray.engine.optim import warmup_decay
from mbti_ray.engine.worker import Worker
from mbti_ray.model.classifier import MBTIModel, build_model
from mbti_ray.model.encoder import layers_of
from mbti_ray.model.loss import build_loss

RESULTS = Path(__file__).parent / "results"
RANDOM = "random-distilbert"
MISSING = "missing"
WARM_STEPS = 4
# Losses of one batch, without dropout; further apart, two sides train different models.
LOSS_GAP = 1e-3


@dataclass(frozen=True)
class Task:
    """What every side is given: a config, windows to train on, a device."""

    config: RunConfig
    data: Dataset
    device: torch.device

    @property
    def windows(self) -> Windows:
        return self.data.splits["train"]

    @property
    def batch_size(self) -> int:
        return self.config.fit.step_size

    def model(self) -> MBTIModel:
        """A fresh model; every side starts from these weights."""
        config = self.config
        return build_model(config.model, vocabulary=len(self.data.tokenizer), seed=config.seed)

    def items(self) -> list[dict[str, Any]]:
        """The windows as DataCollatorWithPadding takes them."""
        windows = self.windows
        labels = windows.labels[windows.row].astype(float).tolist()
        starts, lengths = windows.offsets[:-1].tolist(), windows.lengths.tolist()
        return [
            {"input_ids": windows.ids[s : s + n].tolist(), "attention_mask": [1] * n, "labels": own}
            for s, n, own in zip(starts, lengths, labels, strict=True)
        ]

    def collator(self) -> DataCollatorWithPadding:
        return DataCollatorWithPadding(self.data.tokenizer)


class PlainClassifier(nn.Module):
    """The same encoder and heads, as one writes them for Trainer: a dict with the loss comes out.

    B windows, T tokens: ids and mask int64 [B, T], labels float32 [B, 4].
    """

    def __init__(self, model: MBTIModel) -> None:
        super().__init__()
        self.encoder, self.dropout, self.heads = model.encoder, model.dropout, model.heads
        self.pooling = model.pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        """loss (a number) and logits [B, 4]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1)
        logits = self.heads(self.dropout(pooled))
        return {"loss": binary_cross_entropy_with_logits(logits.float(), labels), "logits": logits}


class Tally:
    """What a side really did, counted at the encoder and at the optimiser."""

    def __init__(self) -> None:
        self.windows = self.padded = self.steps = 0
        self.optimizer = ""

    def watch(self, encoder: nn.Module) -> None:
        """Count the tokens, with padding, of each pass in training mode."""

        def count(module: nn.Module, args: object, named: dict[str, Any]) -> None:
            if module.training:
                self.windows += len(named["input_ids"])
                self.padded += named["input_ids"].numel()

        encoder.register_forward_pre_hook(count, with_kwargs=True)

    @contextmanager
    def steps_counted(self) -> Iterator[None]:
        handle = register_optimizer_step_post_hook(self._count_step)
        try:
            yield
        finally:
            handle.remove()

    def _count_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.steps += 1
        fused = "fused" if optimizer.param_groups[0].get("fused") else "not fused"
        self.optimizer = f"{type(optimizer).__name__}, {fused}"


class Clock:
    """Seconds between two moments at which the device has nothing left to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._started = 0.0

    def start(self, *_: object, **__: object) -> None:
        wait_for(self.device)
        self._started = time.perf_counter()

    def stop(self, *_: object, **__: object) -> None:
        wait_for(self.device)
        self.seconds = time.perf_counter() - self._started


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# A side trains for one epoch, and gives seconds and the mean loss over the steps.
Side = Callable[[Task, Tally], tuple[float, float]]


class _Watched(Worker):
    def __init__(self, device: torch.device, tally: Tally) -> None:
        super().__init__(device=device)
        self._tally = tally

    def prepare(self, model: nn.Module) -> nn.Module:
        self._tally.watch(model.encoder)  # type: ignore[arg-type]
        return super().prepare(model)


def train_ours(task: Task, tally: Tally) -> tuple[float, float]:
    """The engine itself; what it does after the last step is not part of its own seconds."""
    worker = _Watched(task.device, tally)
    outcome = run(task.config, task.data, worker, score_test=False)
    return outcome.progress.seconds, worker.lines[-1]["train"]["loss"]


def train_hf(task: Task, tally: Tally, *, strategy: str) -> tuple[float, float]:
    """transformers.Trainer with its own optimiser, schedule and sampler."""
    from transformers import PrinterCallback, Trainer, TrainerCallback

    clock = Clock(task.device)
    timer = type(
        "Timer", (TrainerCallback,), {"on_train_begin": clock.start, "on_epoch_end": clock.stop}
    )
    model = PlainClassifier(task.model())
    tally.watch(model.encoder)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=hf_arguments(task, folder, strategy),
            data_collator=task.collator(),
            train_dataset=task.items(),
            callbacks=[timer()],
        )
        trainer.remove_callback(PrinterCallback)
        return_value = trainer.train()
    return clock.seconds, float(return_value.training_loss)


def hf_arguments(task: Task, folder: str, strategy: str) -> Any:
    """What the config says, in the words of TrainingArguments; the rest is its defaults."""
    from transformers import TrainingArguments

    config, on_gpu = task.config, task.device.type == "cuda"
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=task.batch_size,
        learning_rate=config.optim.lr,
        weight_decay=config.optim.weight_decay,
        max_grad_norm=config.optim.clip_norm,
        train_sampling_strategy=strategy,
        seed=config.seed,
        bf16=config.fit.precision == "bf16-mixed",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=0,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def train_lightning(task: Task, tally: Tally) -> tuple[float, float]:
    """lightning.Trainer with a shuffled DataLoader."""
    import lightning

    model = PlainClassifier(task.model()).train()
    tally.watch(model.encoder)
    clock = Clock(task.device)
    module = lightning_module(model, task, clock)
    torch.manual_seed(task.config.seed)
    on_gpu = task.device.type == "cuda"
    loader = DataLoader(
        task.items(),  # type: ignore[arg-type]
        batch_size=task.batch_size,
        shuffle=True,
        collate_fn=task.collator(),
        pin_memory=on_gpu,
    )
    trainer = lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="32-true" if task.config.fit.precision == "32" else "bf16-mixed",
        max_epochs=1,
        gradient_clip_val=task.config.optim.clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return clock.seconds, float(module.total_loss) / trainer.global_step


def lightning_module(model: PlainClassifier, task: Task, clock: Clock) -> Any:
    """The model as a plain LightningModule."""
    import lightning

    optim = task.config.optim
    total = -(-len(task.windows) // task.batch_size)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.total_loss = torch.zeros((), device=task.device)

        def training_step(self, batch: Any, place: int) -> Tensor:
            loss: Tensor = self.model(**batch)["loss"]
            self.total_loss += loss.detach()
            return loss

        def configure_optimizers(self) -> Any:
            adamw = torch.optim.AdamW(
                self.parameters(), lr=optim.lr, weight_decay=optim.weight_decay
            )
            rate = partial(warmup_decay, warmup=0, total=total)
            schedule = torch.optim.lr_scheduler.LambdaLR(adamw, rate)
            return [adamw], [{"scheduler": schedule, "interval": "step"}]

        def on_train_start(self) -> None:
            clock.start()

        def on_train_epoch_end(self) -> None:
            clock.stop()

    return Module()


SIDES: dict[str, Side] = {
    "ours": train_ours,
    "hf": partial(train_hf, strategy="random"),
    "hf_grouped": partial(train_hf, strategy="group_by_length"),
    "lightning": train_lightning,
}


def present_sides() -> dict[str, Side]:
    """The sides that this machine can train."""
    if find_spec("accelerate") is None:
        raise SystemExit(
            "benchmarks/train.py: transformers.Trainer needs accelerate, and the side lightning "
            "needs lightning; pip install accelerate lightning"
        )
    found = find_spec("lightning") is not None
    return {name: side for name, side in SIDES.items() if found or name != "lightning"}


def measure_side(side: Side, task: Task) -> dict[str, Any]:
    """One epoch of one side, and what it did.

    Raises:
        RuntimeError: It did not train on every window once.
    """
    gc.collect()
    tally = Tally()
    with tally.steps_counted():
        seconds, loss = side(task, tally)
    lengths = task.windows.lengths
    if tally.windows != len(lengths):
        raise RuntimeError(f"a side read {tally.windows} windows of {len(lengths)}")
    tokens = int(lengths.sum())
    return {
        "seconds": seconds,
        "texts_s": len(lengths) / seconds,
        "tokens_s": tokens / seconds,
        "padding": 1 - tokens / tally.padded,
        "padded_tokens": tally.padded,
        "steps": tally.steps,
        "optimizer": tally.optimizer,
        "mean_loss": loss,
    }


@torch.inference_mode()
def first_losses(task: Task, sides: dict[str, Side]) -> dict[str, float]:
    """The loss of the first batch at step 0, without dropout, on each side's own path.

    Raises:
        RuntimeError: They differ: the sides would train different models.
    """
    count = min(task.batch_size, len(task.windows))
    model = task.model().to(task.device).eval()
    own = collate(task.windows, np.arange(count), pad_id=task.data.tokenizer.pad_token_id)
    own = own.to(task.device)
    logits = model(own.input_ids, own.attention_mask)
    losses = {"ours": build_loss(task.config.loss, None)(logits, own.labels).mean().item()}
    plain = PlainClassifier(task.model()).to(task.device).eval()
    batch = {k: v.to(task.device) for k, v in task.collator()(task.items()[:count]).items()}
    losses["hf"] = plain(**batch)["loss"].item()
    if "lightning" in sides:
        module = lightning_module(plain, task, Clock(task.device)).eval()
        losses["lightning"] = module.training_step(batch, 0).item()
    if max(losses.values()) - min(losses.values()) > LOSS_GAP:
        raise RuntimeError(f"the sides start at different losses: {losses}")
    return losses


@dataclass(frozen=True)
class Shape:
    """What of an encoder costs operations.

    Attributes:
        linears: How often each linear map (inputs, outputs) occurs.
    """

    linears: Counter[tuple[int, int]]
    layers: int
    width: int

    @property
    def weights(self) -> int:
        return sum(i * o * times for (i, o), times in self.linears.items())

    def flops(self, lengths: Sequence[int]) -> int:
        """Operations of a training step on windows of so many tokens; see the top of the file."""
        return sum(
            6 * self.weights * tokens + 12 * self.layers * self.width * tokens**2
            for tokens in map(int, lengths)
        )


def shape_of(model: MBTIModel) -> Shape:
    linears = [m for m in model.encoder.modules() if isinstance(m, nn.Linear)]
    return Shape(
        Counter((m.in_features, m.out_features) for m in linears),
        len(layers_of(model.encoder)),
        model.heads.in_features,
    )


@dataclass(frozen=True)
class Products:
    """The speed of matrix products of the precision that is trained in.

    Attributes:
        tokens: Real tokens of a mean batch.
    """

    shape: Shape
    tokens: int
    device: torch.device
    dtype: torch.dtype

    def measure(self) -> dict[str, float]:
        """Operations a second by what was multiplied."""
        rates = {"square_2048": self._square(2048)}
        if self.device.type == "cuda":
            rates["square_8192"] = self._square(8192)
        return {**rates, "own_shapes": self._own()}

    def _square(self, size: int) -> float:
        a, b = self._random(size, size), self._random(size, size)
        return 2 * size**3 / self._seconds(lambda: a @ b)

    def _own(self) -> float:
        """Forward, the gradient of the input and that of the weight, of every linear map."""
        seconds = 0.0
        for (inputs, outputs), times in self.shape.linears.items():
            x, weight = self._random(self.tokens, inputs), self._random(outputs, inputs)
            gradient = self._random(self.tokens, outputs)
            seconds += times * self._seconds(lambda x=x, w=weight: x @ w.T)
            seconds += times * self._seconds(lambda g=gradient, w=weight: g @ w)
            seconds += times * self._seconds(lambda g=gradient, x=x: g.T @ x)
        return 6 * self.shape.weights * self.tokens / seconds

    def _random(self, *size: int) -> Tensor:
        return torch.randn(*size, device=self.device, dtype=self.dtype)

    def _seconds(self, product: Callable[[], Tensor]) -> float:
        """The median of five, after one to warm up."""
        # A GPU needs many at once, or the time to order them is measured.
        times = 50 if self.device.type == "cuda" else 1
        clock, seconds = Clock(self.device), []
        for _ in range(6):
            clock.start()
            for _ in range(times):
                product()
            clock.stop()
            seconds.append(clock.seconds / times)
        return statistics.median(seconds[1:])


def measure(
    task: Task, sides: dict[str, Side], products: Products, repeats: int
) -> list[dict[str, Any]]:
    """Every repeat of every side in turn, each between two looks at the machine."""
    # A GPU has to see every shape once; a CPU only has to be awake.
    on_gpu = task.device.type == "cuda"
    warm = task if on_gpu else with_windows(task, WARM_STEPS * task.batch_size)
    for name, side in sides.items():
        measure_side(side, warm)
        say(f"warmed up {name}")
    flops, records = products.shape.flops(task.windows.lengths), []
    before = products.measure()
    for repeat in range(repeats):
        seeded = replace(task, config=task.config.model_copy(update={"seed": repeat}))
        for name, side in sides.items():
            record = {"repeat": repeat, "side": name, **measure_side(side, seeded)}
            after = products.measure()
            speed = {key: (before[key] + after[key]) / 2 for key in after}
            before = after
            record["flop_s"] = flops / record["seconds"]
            record["matmul_flop_s"] = speed
            record["matmul_share"] = {k: record["flop_s"] / v for k, v in speed.items()}
            records.append(record)
            say(f"repeat {repeat + 1}/{repeats} {name}: {record['texts_s']:.1f} texts/s")
    return records


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def medians(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of every figure of each side over its repeats; nested figures likewise."""
    sides = dict.fromkeys(record["side"] for record in records)
    return {
        side: _median_of([r for r in records if r["side"] == side], skip=("repeat", "side"))
        for side in sides
    }


def _median_of(records: Sequence[dict[str, Any]], *, skip: Sequence[str] = ()) -> dict[str, Any]:
    middle: dict[str, Any] = {}
    for key, value in records[0].items():
        if isinstance(value, dict):
            middle[key] = _median_of([record[key] for record in records])
        elif isinstance(value, int | float) and key not in skip:
            middle[key] = statistics.median(record[key] for record in records)
    return middle


def summary(middle: dict[str, Any]) -> dict[str, Any]:
    """The last line: ratios of medians, what is ours, and texts/s of all."""
    ours = middle["ours"]
    others = [side for side in SIDES if side != "ours"]
    return {
        **{
            f"vs_{side}": ours["tokens_s"] / middle[side]["tokens_s"] if side in middle else MISSING
            for side in others
        },
        "padding_share": ours["padding"],
        "matmul_share": ours["matmul_share"]["square_2048"],
        "matmul_share_own_shapes": ours["matmul_share"]["own_shapes"],
        "texts_s": {s: middle[s]["texts_s"] if s in middle else MISSING for s in SIDES},
        "padding": {s: middle[s]["padding"] if s in middle else MISSING for s in SIDES},
    }


def padding_of(lengths: Any, batches: Sequence[Any]) -> float:
    """The share of padding among the tokens of some batches of windows."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def padding_of_split(lengths: Any, batch_size: int) -> dict[str, float]:
    """What each sampler would pad in an epoch of the whole split: few windows group less well."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    def cut(order: Any) -> list[Any]:
        return np.split(np.asarray(order), range(batch_size, len(order), batch_size))

    shuffled = np.random.default_rng(0).permutation(len(lengths))
    grouped = get_length_grouped_indices(
        lengths.tolist(), batch_size, generator=torch.Generator().manual_seed(0)
    )
    return {
        "ours": padding_of(lengths, plan_epoch(lengths, batch_size, seed=0, epoch=0)),
        "random": padding_of(lengths, cut(shuffled)),
        "hf_grouped": padding_of(lengths, cut(grouped)),
    }


def with_windows(task: Task, count: int) -> Task:
    """The task on the first windows of its training split only; the other splits are one window."""

    def first(windows: Windows, count: int) -> Windows:
        count = min(count, len(windows))
        rows = int(windows.row[count - 1]) + 1
        return Windows(windows.table.slice(0, count), windows.rows.slice(0, rows))

    splits = {
        name: first(windows, count if name == "train" else 1)
        for name, windows in task.data.splits.items()
    }
    return replace(task, data=replace(task.data, splits=splits))


def build_task(options: argparse.Namespace, folder: Path) -> Task:
    """The preset minilm on single posts, the same rates everywhere, the whole training split."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = options.precision or ("bf16-mixed" if device.type == "cuda" else "32")
    is_random = options.encoder == RANDOM
    settings = [
        f"model.encoder={'tiny' if is_random else options.encoder}",
        f"model.max_tokens={options.max_tokens}",
        f"data.source={options.source}",
        "data.unit=post",
        "optim.head_lr=null",
        "optim.warmup_steps=0",
        "fit.epochs=1",
        f"fit.batch_size={options.batch_size}",
        f"fit.precision={precision}",
    ]
    config = load_run("minilm", settings)
    data = prepare_dataset(config, folder / "cache")
    if is_random:
        shape = DistilBertConfig(max_position_embeddings=max(512, options.max_tokens))
        torch.manual_seed(0)
        DistilBertModel(shape).save_pretrained(folder / RANDOM)
        config = load_run("minilm", [*settings, f"model.encoder={folder / RANDOM}"])
    return Task(config, data, device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "tokenizers", "accelerate", "lightning", "numpy")
    found = {name: version(name) for name in names if find_spec(name)}
    return {"python": platform.python_version(), **found}


def shown_command(arguments: Sequence[str]) -> str:
    """The command line with the names of files only: folders are this machine's own."""
    shown = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        shown.append(option + equals + (Path(value).name if "/" in value else value))
    return " ".join(["python benchmarks/train.py", *shown])


def quiet() -> None:
    """No advice, no notes: only what this script says."""
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", default="builtin", help="a data file; default: built-in texts")
    parser.add_argument("--encoder", default="minilm", help=f"or {RANDOM}, a folder, a hub name")
    parser.add_argument("--windows", type=int, help="of the training split; default 1600")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--precision", choices=("32", "bf16-mixed"), help="default: 32 on a CPU")
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--quick", action="store_true", help="512 windows, 2 repeats")
    parser.add_argument("--output", type=Path, default=RESULTS / "train.json")
    options = parser.parse_args(arguments)
    options.windows = options.windows or (512 if options.quick else 1600)
    options.repeats = options.repeats or (2 if options.quick else 3)
    return options


def settings_of(task: Task, options: argparse.Namespace, whole: Windows) -> dict[str, Any]:
    """What was trained, and on what."""
    lengths = task.windows.lengths
    return {
        "encoder": options.encoder,
        "windows": len(lengths),
        "real_tokens": int(lengths.sum()),
        "longest_window": int(lengths.max()),
        "windows_in_split": len(whole),
        "padding_of_whole_split": padding_of_split(whole.lengths, task.batch_size),
        "max_tokens": task.config.model.max_tokens,
        "batch_size": task.batch_size,
        "repeats": options.repeats,
        "precision": task.config.fit.precision,
        "optim": task.config.optim.model_dump(mode="json"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    sides = present_sides()
    quiet()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        full = build_task(options, Path(folder))
        whole, task = full.windows, with_windows(full, options.windows)
        losses = first_losses(task, sides)
        dtype = torch.float32 if task.config.fit.precision == "32" else torch.bfloat16
        tokens = round(task.windows.lengths.mean() * task.batch_size)
        products = Products(shape_of(task.model()), tokens, task.device, dtype)
        records = measure(task, sides, products, options.repeats)
    middle = medians(records)
    raw = {
        "command": shown_command(arguments),
        "machine": machine(task.device),
        "versions": versions(),
        "settings": settings_of(task, options, whole),
        "first_batch_loss": losses,
        "repeats": records,
        "medians": middle,
        "summary": summary(middle),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps(raw["summary"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
