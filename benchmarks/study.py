"""Is a search worth its hours: the best of a study under a fixed budget against the default config.

    python benchmarks/study.py FILE [--every 4] [--hours 0.4] [--storage runs]

Takes every n-th post of each line of FILE, trains the preset minilm on them once as it is, and
searches with tune_configs/minilm.yaml until the budget is over. Both bundles then read the same
test split, which neither has seen. Keeps raw JSON in benchmarks/results/. The last line is one
JSON object: `default` and `best`, accuracies with 95 % intervals, and `difference` with its paired
interval and p value, resampled by person.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbti_ray.config import load_run
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.lookup import cache_folder, fetch_bundle
from mbti_ray.scores.baselines import Baseline
from mbti_ray.scores.metrics import Scored
from mbti_ray.scores.scorecard import build_scorecard

RESULTS = Path(__file__).parent / "results"
STUDY = Path(__file__).parent.parent / "tune_configs" / "minilm.yaml"
RESAMPLES = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=int, default=4, help="take every n-th post")
    parser.add_argument("--hours", type=float, default=0.4, help="budget of the study")
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    options = parser.parse_args()
    options.storage.mkdir(parents=True, exist_ok=True)
    source = options.storage / f"every{options.every}_{options.file.name}"
    _take(options.file, source, options.every)
    place = [f"storage={options.storage}", f"data.source={source}"]
    posts = ["data.unit=post", "data.split_by=post"]
    budget = ["study.trials=null", f"study.hours={options.hours}", "scoring.baselines=false"]
    _run("train", "minilm", *place, *posts, "name=default-config", "scoring.baselines=false")
    _run("tune", str(STUDY), *place, *posts, *budget, "name=study")
    data = prepare_dataset(load_run("minilm", [*place, *posts]), cache_folder(str(options.storage)))
    result = _compared(data, options.storage)
    trials = _trials(options.storage / "study")
    raw = {
        "command": f"python benchmarks/study.py {options.file.name} --every {options.every} "
        f"--hours {options.hours}",
        "machine": {"cpus": torch.get_num_threads(), "python": platform.python_version()},
        "rows": {name: split.row_count for name, split in data.splits.items()},
        "trials": trials,
        **result,
    }
    (RESULTS / "study_minilm.json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps({k: result[k] for k in ("default", "best", "difference")}))
    return 0


def _take(file: Path, target: Path, every: int) -> None:
    """Every n-th post of each line, so that all authors stay."""
    csv.field_size_limit(2**31 - 1)
    with file.open(encoding="utf-8", newline="") as read, target.open("w", newline="") as write:
        rows = csv.DictReader(read)
        writer = csv.DictWriter(write, rows.fieldnames or [])
        writer.writeheader()
        for row in rows:
            posts = [post for post in row["posts"].split("|||") if post.strip()]
            writer.writerow({**row, "posts": "|||".join(posts[::every])})


def _run(verb: str, *items: str) -> None:
    command = [sys.executable, "-m", f"mbti_ray.{verb}", *items, "--fresh"]
    subprocess.run(command, check=True)


def _probabilities(folder: Path, data: Dataset) -> np.ndarray[Any, Any]:
    predictor = Predictor.load(fetch_bundle(folder))
    texts = [[text] for text in data.splits["test"].texts]
    return np.array([[*p.probabilities.values()] for p in predictor.predict(texts, whole=False)])


def _compared(data: Dataset, storage: Path) -> dict[str, Any]:
    """Both bundles on the test split, the default's answers as a baseline of the best's."""
    test = data.splits["test"]
    half = np.full(4, 0.5)
    found = {n: _probabilities(storage / n, data) for n in ("default-config", "study")}
    scored = {n: Scored(p, test.labels, half, test.persons) for n, p in found.items()}
    default = Baseline(
        name="default config",
        description="the preset minilm as it is",
        predicted=found["default-config"] > half,
        comparable=True,
    )
    cards = {
        n: build_scorecard(
            s,
            [default] if n == "study" else [],
            resamples=RESAMPLES,
            person=data.info.person,
        )
        for n, s in scored.items()
    }
    shown = ("accuracy", "all_four", "brier")
    overall = {n: {k: card["overall"][k] for k in shown} for n, card in cards.items()}
    return {
        "default": overall["default-config"],
        "best": overall["study"],
        "difference": cards["study"]["paired"],
        "groups": cards["study"]["intervals"]["groups"],
        "scorecards": cards,
    }


def _trials(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    trials: list[dict[str, Any]] = pq.read_table(folder / "trials.parquet").to_pylist()
    return [{k: v for k, v in t.items() if k not in ("worker", "folder")} for t in trials]


if __name__ == "__main__":
    raise SystemExit(main())
