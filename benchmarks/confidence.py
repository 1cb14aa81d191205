"""Are probabilities right for short texts, and for other people than those of the training data?

    python benchmarks/confidence.py [--storage FOLDER]

Trains the preset quick three times on texts of the built-in corpus. Scores test users of the first
model by their first posts only, with the temperature of whole users and with the one that follows
the length; and looks whether the letters for which it names a number of further posts are sure
after that many. Then trains on people of whom 20 % are E and 70 % T, and on others of whom 60 % and
30 % are, and scores both models on test users of the second kind, the first also with their base
rates. Writes benchmarks/results/confidence.json; the last line is the same as one JSON object.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbti_ray.config import load_run
from mbti_ray.config.serve_section import BaseRates
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset import Dataset, prepare_dataset
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.inference.decision import SURE
from mbti_ray.inference.finalize import finalize_run
from mbti_ray.inference.predictor import Predictor
from mbti_ray.runs.run_folder import RunFolder
from mbti_ray.scores.metrics import metrics_by_person

RESULTS = Path(__file__).parent / "results"
POSTS_READ = (1, 2, 5, 100)
# Share of E and of T among the people of the two trainings.
PEOPLE = {"first": (0.2, 0.7), "second": (0.6, 0.3)}
_HEADS = {"E": 0, "T": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", type=Path, help="default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        storage = options.storage or Path(temporary)
        record = {
            "command": "python benchmarks/confidence.py",
            "versions": {"torch": torch.__version__.partition("+")[0]},
            "short_texts": score_short_texts(storage),
            "base_rates": score_base_rates(storage),
        }
    text = json.dumps(record, indent=1)
    (RESULTS / "confidence.json").write_text(text + "\n", "utf-8")
    print(json.dumps(record))
    return 0


def train(storage: Path, name: str, *settings: str) -> tuple[Predictor, Dataset, Path]:
    """The predictor of a run of the preset quick."""
    changes = ["scoring.resamples=0", "scoring.baselines=false", *settings]
    config = load_run("quick", changes)
    data = prepare_dataset(config, storage / "cache")
    folder = storage / name
    folder.mkdir(parents=True, exist_ok=True)
    finalize_run(config, data, run(config, data, Worker()), RunFolder(folder))
    return Predictor.load(folder / "bundle"), data, folder / "bundle"


def test_users(data: Dataset) -> tuple[list[list[str]], np.ndarray]:
    test = data.splits["test"]
    return [text.split("\n") for text in test.texts], test.labels


def score_short_texts(storage: Path) -> dict[str, Any]:
    predictor, data, _ = train(storage, "all")
    users, labels = test_users(data)
    scale = torch.tensor(predictor.info["temperature"])
    scores = {}
    for count in POSTS_READ:
        read = predictor.predict_logits([posts[:count] for posts in users], whole=True)
        scores[f"first {count}"] = {
            "tokens": float(np.mean([row.tokens for row in read.rows])),
            "one temperature": errors(torch.sigmoid(read.values / scale), labels),
            "by length": errors(torch.sigmoid(predictor.calibrate(read)), labels),
        }
    return {"rows": len(users), "posts": scores, "more_posts": follow_more_posts(predictor, users)}


def follow_more_posts(predictor: Predictor, users: list[list[str]]) -> dict[str, float]:
    """Of letters that should be sure after so many more posts: what became of them?"""
    before, after = [], []
    for posts in users:
        (first,) = predictor.predict([posts[:1]], whole=True)
        for pole, more in (first.more_posts or {}).items():
            if more and 1 + more <= len(posts):
                (later,) = predictor.predict([posts[: 1 + more]], whole=True)
                before.append(first.probabilities[pole])
                after.append(later.probabilities[pole])
    early, late = (np.maximum(p, 1 - p) for p in (np.array(before), np.array(after)))
    return {
        "letters": len(early),
        "confidence_before": float(early.mean()),
        "confidence_after": float(late.mean()),
        "sure_after": float((late >= SURE).mean()),
    }


def score_base_rates(storage: Path) -> dict[str, Any]:
    users = builtin_rows(users=15000)
    is_e, is_t = (np.array([u.mbti_type[k] == p for u in users]) for k, p in ((0, "E"), (2, "T")))
    trained = {}
    for place, (name, (e, t)) in enumerate(PEOPLE.items()):
        # Nobody is among both.
        weight = (np.arange(len(users)) % 2 == place).astype(float)
        for is_pole, share in ((is_e, e), (is_t, t)):
            weight *= np.where(is_pole, share / is_pole.mean(), (1 - share) / (1 - is_pole.mean()))
        chosen = np.random.default_rng(place).choice(
            len(users), 3000, replace=False, p=weight / weight.sum()
        )
        source = storage / f"{name}.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            rows = ([users[n].mbti_type, "|||".join(users[n].posts[:2])] for n in chosen)
            csv.writer(file).writerows([["type", "posts"], *rows])
        shares = ("data.val_share=0.15", "data.test_share=0.3")
        trained[name] = train(storage, name, f"data.source={source}", *shares)
    texts, labels = test_users(trained["second"][1])
    rates = trained["second"][1].splits["train"].labels.mean(0)
    asked = BaseRates(E=float(rates[0]), T=float(rates[2]))
    compared = {
        "trained on others": trained["first"][0],
        "trained on others, with base rates": Predictor.load(trained["first"][2], base_rates=asked),
        "trained on such people": trained["second"][0],
    }
    found = {name: score_heads(predictor, texts, labels) for name, predictor in compared.items()}
    return {"rows": len(texts), "asked": asked.model_dump(exclude_none=True), **found}


def score_heads(predictor: Predictor, texts: list[list[str]], labels: np.ndarray) -> dict[str, Any]:
    probabilities = torch.sigmoid(predictor.calibrate(predictor.predict_logits(texts, whole=True)))
    values = metrics_of(probabilities, labels, predictor.decision.thresholds.double().numpy())
    return {
        pole: {name: float(values[name][k]) for name in ("ece", "macro_f1")}
        for pole, k in _HEADS.items()
    }


def errors(probabilities: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    values = metrics_of(probabilities, labels, np.full(4, 0.5))
    return {name: float(values[name].mean()) for name in ("ece", "brier")}


def metrics_of(
    probabilities: torch.Tensor, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    each = np.arange(len(labels))
    found = metrics_by_person(probabilities.double().numpy(), labels, thresholds, each)
    return {name: value[0] for name, value in found(np.ones((1, len(labels)))).items()}


if __name__ == "__main__":
    raise SystemExit(main())
