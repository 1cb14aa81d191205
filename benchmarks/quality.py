"""Five-fold cross-validation by persons of what reads a person: windows, posts, TF-IDF, a stack.

    python benchmarks/quality.py FILE [key=value ...] [--readers windows posts ...] [--seeds 3]
        [--folds 5] [--jobs 1] [--storage runs] [--output benchmarks/results/quality_FILE.json]

The persons of FILE are dealt to folds, type by type in the order of a hash of their texts. For each
fold, reader and seed, a model learns from the other folds (of which its own split keeps rows for
validation) through the training loop, without Ray, on a GPU if there is one; its bundle predicts
the persons of the fold, as the service would. Every reader learns from the same rows and is scored
on the same rows, each predicted once a seed. A stack is of TF-IDF and the reader of posts.

What is done is not repeated: a run that was stopped goes on where it was. `--jobs` trains several
at a time, which pays on a GPU, and makes minutes no longer comparable. At the end the raw JSON goes
to `--output`, and the last line is one JSON object: macro-F1 and accuracy over all seeds with 95 %
intervals by person, the paired differences from the first reader, and the CPU minutes of each.
Features of a frozen encoder are kept for a fold, so the first reader and seed that need them pay
for them all.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mbti_ray import __version__
from mbti_ray.config import RunConfig, load_run
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.data.rows import Row
from mbti_ray.data.users import load_users
from mbti_ray.engine.cross_fit import cross_fit
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.comparison import compare
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard
from mbti_ray.typology import POSITIVE_POLES, labels_of

RESULTS = Path(__file__).parent / "results"
RESAMPLES = 2000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Preset and changes of each reader.
READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "windows": ("minilm", ()),
    # The same preset, and only the reader changed: all weights learn.
    "posts-tuned": ("minilm", ("model.reader=posts", "fit.posts=24")),
    "windows-frozen": ("posts", ("model.reader=windows", "fit.posts=null")),
    # What the field's tables call BERT: the first window of all that a person wrote.
    "one-window": ("posts", ("model.reader=windows", "fit.posts=null", "data.max_windows=1")),
    "posts": ("posts", ()),
    "posts+layer": ("posts", ("model.post_layers=1",)),
    "tfidf": ("minilm", ("model.reader=tfidf",)),
    "stack": ("posts", ("model.reader=stack", "model.member=posts")),
}
# Rows of the fold are scored here, not those of a run's own test split, which is made small.
SCORING = ("data.test_share=0.02", "scoring.baselines=false", "scoring.resamples=0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all readers alike")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=[*READERS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--storage", type=Path, default=Path("runs/quality"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_intermixed_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    source = [f"data.source={options.file}", *options.overrides]
    folds = deal(load_users(load_run("minilm", source).data).rows, options.folds)
    for fold in range(options.folds):
        rows = [row for other in range(options.folds) if other != fold for row in folds[other]]
        _write_rows(_rows_without(options, fold), rows)
    # Fold by fold, so that readers can be compared long before all is done.
    order = product(range(options.seeds), range(options.folds), options.readers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:
        trained = [
            pool.submit(
                predict_fold, options, [row.posts for row in folds[fold]], reader, fold, seed
            )
            for seed, fold, reader in order
        ]
        for future in trained:
            future.result()
    print(json.dumps(conclude(options, folds)))
    return 0


def deal(rows: Sequence[Row], folds: int) -> list[list[Row]]:
    """The rows by fold; persons of a type are dealt out in turn, so that it is in all alike."""
    by_person: dict[str, list[Row]] = {}
    for row in rows:
        text = hashlib.sha256("|||".join(row.posts).encode()).hexdigest()
        by_person.setdefault(row.author or text, []).append(row)
    dealt: Counter[str] = Counter()
    found: list[list[Row]] = [[] for _ in range(folds)]
    for _, own in sorted(by_person.items()):
        mbti_type = own[0].mbti_type or ""
        # Types start at different folds, or the first folds would get all the rare ones.
        found[(dealt[mbti_type] + sum(map(ord, mbti_type))) % folds] += own
        dealt[mbti_type] += 1
    return found


def predict_fold(
    options: argparse.Namespace, texts: Sequence[Sequence[str]], reader: str, fold: int, seed: int
) -> None:
    """Train a reader on the other folds and write its predictions of the fold, if not done."""
    output = _output(options, reader, fold, seed)
    if output.exists():
        return
    started, begun = time.process_time(), time.perf_counter()
    preset, changes = READERS[reader]
    # The file has the shares of E, N, T and J, whichever the source has.
    place = (f"data.source={_rows_without(options, fold)}", "data.shares_of=ENTJ", f"seed={seed}")
    config = load_run(preset, [*changes, *SCORING, *options.overrides, *place])
    data = prepare_dataset(config, options.storage / "cache")
    probabilities, best = _train_and_predict(config, data, texts, output.with_suffix(""))
    record = {
        "cpu_minutes": (time.process_time() - started) / 60,
        "seconds": time.perf_counter() - begun,
        "best_epoch": best,
        "probabilities": probabilities,
    }
    output.with_suffix(".part").write_text(json.dumps(record), "utf-8")
    output.with_suffix(".part").rename(output)
    print(f"{output.stem}: {record['cpu_minutes']:.1f} min", file=sys.stderr, flush=True)


def _train_and_predict(
    config: RunConfig, data: Dataset, texts: Sequence[Sequence[str]], path: Path
) -> tuple[list[list[float]], int]:
    """Probabilities [R, 4] of a trained bundle, and the epoch whose weights its encoder has."""
    outcome = cross_fitted = None
    if config.model.has_encoder:
        # A run that was killed goes on from its checkpoint.
        worker = Worker(device=DEVICE, folder=path)
        outcome = run(config, data, worker)
        cross_fitted = cross_fit(config, data, worker, epochs=outcome.progress.best_epoch)
    folder = RunFolder(path)
    finalize_run(config, data, outcome, folder, cross_fitted=cross_fitted)
    found = Predictor.load(folder.bundle, device=DEVICE).predict(texts, whole=True)
    shutil.rmtree(path)
    probabilities = [[p.probabilities[pole] for pole in POSITIVE_POLES] for p in found]
    return probabilities, outcome.progress.best_epoch if outcome else 0


def conclude(options: argparse.Namespace, folds: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Write the raw JSON and return the summary."""
    rows = [row for fold in folds for row in fold]
    labels = np.array([labels_of(row.mbti_type or "") for row in rows], np.uint8)
    names = [row.author or f"row {place}" for place, row in enumerate(rows)]
    persons = np.unique(names, return_inverse=True)[1]
    scored, cards, minutes = {}, {}, {}
    for reader in options.readers:
        records = [
            [
                json.loads(_output(options, reader, fold, seed).read_text("utf-8"))
                for fold in range(options.folds)
            ]
            for seed in range(options.seeds)
        ]
        of_seeds = [np.concatenate([r["probabilities"] for r in seed]) for seed in records]
        # All seeds together; a person is resampled with all predictions of it.
        scored[reader] = Scored(
            np.concatenate(of_seeds),
            np.tile(labels, (options.seeds, 1)),
            np.full(4, 0.5),
            np.tile(persons, options.seeds),
        )
        cards[reader] = build_scorecard(scored[reader], (), resamples=RESAMPLES, person="person")
        minutes[reader] = [[r["cpu_minutes"] for r in seed] for seed in records]
    first = options.readers[0]
    paired = {
        reader: compare(scored[first], scored[reader], resamples=RESAMPLES)
        for reader in options.readers[1:]
    }
    raw = {
        "command": " ".join(
            [
                f"python benchmarks/quality.py {options.file.name}",
                *options.overrides,
                f"--readers {' '.join(options.readers)} --seeds {options.seeds}",
            ]
        ),
        "machine": {
            "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "jobs": options.jobs,
        },
        "versions": {
            "mbti_ray": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "readers": {name: READERS[name] for name in options.readers},
        "rows": [len(fold) for fold in folds],
        "seeds": options.seeds,
        "scorecards": cards,
        "paired": paired,
        "cpu_minutes": minutes,
    }
    result = options.output or RESULTS / f"quality_{options.file.stem}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    return {
        reader: {
            **{name: cards[reader]["overall"][name] for name in ("macro_f1", "accuracy")},
            "cpu_minutes": float(np.sum(minutes[reader])),
            **({f"minus {first}": _difference(paired[reader])} if reader in paired else {}),
        }
        for reader in options.readers
    }


def _difference(comparison: Any) -> dict[str, Any]:
    return {name: comparison["differences"][name] for name in ("macro_f1", "accuracy")}


def _output(options: argparse.Namespace, reader: str, fold: int, seed: int) -> Path:
    settings = hashlib.sha256(" ".join(options.overrides).encode()).hexdigest()[:6]
    name = f"{options.file.stem}-{settings}-{reader}-seed{seed}-fold{fold}of{options.folds}.json"
    path: Path = options.storage / name
    return path


def _rows_without(options: argparse.Namespace, fold: int) -> Path:
    path: Path = options.storage / f"{options.file.stem}-of{options.folds}-without{fold}.jsonl"
    return path


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        record: dict[str, Any] = {"type": row.mbti_type, "posts": row.posts, "author": row.author}
        shares = dict(zip(POSITIVE_POLES, row.shares or (), strict=False))
        lines.append(json.dumps(record | shares))
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
