"""Five-fold cross-validation by persons: `train minilm` next to TF-IDF, now and before.

    python benchmarks/folds.py FILE [key=value ...] [--base DIR] [--fold K] [--storage runs]

FILE has one person a row. Its rows are dealt to five folds, type by type in the order of a hash of
their text. For each fold, `train minilm` learns from the other four (of which its own split keeps
rows for validation and for a test of its own) and `evaluate` predicts the rows of the fold. DIR is
a checkout of an older version, which does the same with its own preset. TF-IDF learns from the rows
that the current version trained on. Everybody is scored on the same rows, each predicted once.

Folds that are done are not repeated, so that the work can be divided with --fold. When all are
there, the raw JSON goes to benchmarks/results/ and the last line is one JSON object: accuracy and
macro-F1 with 95 % intervals by person, and the paired differences from TF-IDF.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mbti_ray.config import load_run
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.text import preprocess_text
from mbti_ray.inference.split_predictions import tfidf_baseline
from mbti_ray.model.tfidf import fit_tfidf
from mbti_ray.runs.lookup import cache_folder
from mbti_ray.scores.baselines import Baseline, majority_class
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard
from mbti_ray.typology import POSITIVE_POLES, labels_of

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
FOLDS, RESAMPLES = 5, 2000
SEPARATOR = "|||"

Row = tuple[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all sides alike")
    parser.add_argument("--base", type=Path, help="checkout of an older version")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="only this one")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    options = parser.parse_args()
    options.storage = options.storage.resolve()
    rows = sorted(
        _read(options.file), key=lambda row: hashlib.sha256("".join(row).encode()).digest()
    )
    folds = deal(rows)
    sides = {"new": ROOT} | ({"base": options.base.resolve()} if options.base else {})
    for fold in range(FOLDS) if options.fold is None else [options.fold]:
        for side, checkout in sides.items():
            _run_fold(side, checkout, fold, folds, options)
    if all(_predictions(side, fold, options).exists() for side in sides for fold in range(FOLDS)):
        print(json.dumps(_conclude(list(sides), folds, options)))
    return 0


def _hash(row: Row) -> bytes:
    return hashlib.sha256("".join(row).encode()).digest()


def deal(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by fold; each type is dealt out in turn, so that it is in all folds alike."""
    folds: list[list[Row]] = [[] for _ in range(FOLDS)]
    dealt: Counter[str] = Counter()
    for row in rows:
        # Types start at different folds, or the first folds would get all the rare ones.
        folds[(dealt[row[0]] + sum(map(ord, row[0]))) % FOLDS].append(row)
        dealt[row[0]] += 1
    return folds


def _read(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**30)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["type"], row["posts"]


def _write(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("type", "posts"), *rows])
    return path


def _files(fold: int, folds: Sequence[Sequence[Row]], storage: Path) -> tuple[Path, Path]:
    """What a fold is trained on, and what it predicts."""
    train = [row for other, part in enumerate(folds) if other != fold for row in part]
    return (
        _write(storage / f"fold{fold}-train.csv", train),
        _write(storage / f"fold{fold}-test.csv", folds[fold]),
    )


def _predictions(side: str, fold: int, options: argparse.Namespace) -> Path:
    path: Path = options.storage / f"{side}-fold{fold}.parquet"
    return path


def _run_fold(
    side: str,
    checkout: Path,
    fold: int,
    folds: Sequence[Sequence[Row]],
    options: argparse.Namespace,
) -> None:
    output = _predictions(side, fold, options)
    if output.exists():
        return
    train, test = _files(fold, folds, options.storage)
    name = f"{side}-fold{fold}"
    place = [f"storage={options.storage}", f"name={name}"]
    run = ["minilm", f"data.source={train}", "scoring.baselines=false", *options.overrides]
    _command(checkout, "train", *run, *place, "--fresh")
    bundle = options.storage / name / "bundle"
    _command(checkout, "evaluate", str(bundle), f"data.source={test}", "--output", str(output))


def _command(checkout: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", f"mbti_ray.{arguments[0]}", *arguments[1:]]
    subprocess.run(command, cwd=checkout, env=environment, check=True)


def _conclude(
    sides: Sequence[str], folds: Sequence[Sequence[Row]], options: argparse.Namespace
) -> dict[str, Any]:
    labels = np.array([labels_of(row[0]) for part in folds for row in part], np.uint8)
    baselines = [majority_class(labels), _tfidf(folds, options)]
    cards = {}
    for side in sides:
        tables = [pq.read_table(_predictions(side, fold, options)) for fold in range(FOLDS)]
        for table, part in zip(tables, folds, strict=True):
            assert table.column("true").to_pylist() == [row[0] for row in part]
        found = [np.stack([t.column(p).to_numpy() for p in POSITIVE_POLES], 1) for t in tables]
        scored = Scored(
            np.concatenate(found).astype(float), labels, np.full(4, 0.5), np.arange(len(labels))
        )
        cards[side] = build_scorecard(scored, baselines, resamples=RESAMPLES, person="user")
    manifests = {
        side: json.loads((options.storage / f"{side}-fold0/bundle/bundle.json").read_text("utf-8"))
        for side in sides
    }
    raw = {
        "command": " ".join(["python benchmarks/folds.py", options.file.name, *options.overrides]),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": {side: manifest["versions"] for side, manifest in manifests.items()},
        "rows": [len(part) for part in folds],
        "scorecards": cards,
    }
    result = RESULTS / f"folds_{options.file.stem}.json"
    result.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    return {side: _summary(card) for side, card in cards.items()}


def _tfidf(folds: Sequence[Sequence[Row]], options: argparse.Namespace) -> Baseline:
    """Out-of-fold predictions, trained on the rows that the current version trained on."""
    parts = []
    for fold, part in enumerate(folds):
        train, _ = _files(fold, folds, options.storage)
        config = load_run("minilm", [f"data.source={train}", *options.overrides])
        split = prepare_dataset(config, cache_folder(str(options.storage))).splits["train"]
        texts = [
            "\n".join(
                preprocess_text(post, mask=config.data.mask) for post in posts.split(SEPARATOR)
            )
            for _, posts in part
        ]
        parts.append(tfidf_baseline(fit_tfidf(split.texts, split.labels), texts))
    return Baseline("tfidf", parts[0].description, np.concatenate([p.predicted for p in parts]))


def _summary(card: Any) -> dict[str, Any]:
    return {
        "model": {name: card["overall"][name] for name in ("accuracy", "macro_f1", "all_four")},
        "tfidf": {
            name: card["baselines"]["tfidf"][name] for name in ("accuracy", "macro_f1", "all_four")
        },
        "paired": card["paired"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
