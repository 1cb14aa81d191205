"""The same people on both sides of the split, or other people: what that does to the scores.

    python benchmarks/splits.py FILE [--storage runs] [--resume]

Trains the preset minilm on the posts of FILE twice, at the default seed: split by post, as most
published figures are, and by author. Keeps both as raw JSON in benchmarks/results/. The last line
is one JSON object: for post and author the accuracies with their intervals, of TF-IDF too, and
what calibration did to Brier score and ECE.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mbti_ray.inference.manifest import load_manifest

RESULTS = Path(__file__).parent / "results"
SPLITS = ("post", "author")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--resume", action="store_true", help="go on with runs that exist")
    options = parser.parse_args()
    kept = {split: _run(split, options) for split in SPLITS}
    print(json.dumps({split: _summary(scores) for split, scores in kept.items()}))
    return 0


def _run(split: str, options: argparse.Namespace) -> dict[str, Any]:
    name = f"minilm-{split}"
    items = [
        "minilm",
        f"data.source={options.file}",
        "data.unit=post",
        f"data.split_by={split}",
        f"name={name}",
    ]
    folder = options.storage / name
    existing = ["--resume"] if options.resume and folder.exists() else []
    command = [sys.executable, "-m", "mbti_ray.train", *items, f"storage={options.storage}"]
    subprocess.run([*command, *existing], check=True)
    scores: dict[str, Any] = json.loads((folder / "scores.json").read_text("utf-8"))
    manifest = load_manifest(folder / "bundle")
    shown = [item.replace(str(options.file), options.file.name) for item in items]
    raw = {
        "command": " ".join(["python -m mbti_ray.train", *shown]),
        "versions": manifest.versions,
        "data": {k: v for k, v in manifest.data.items() if k != "source"},
        "history": [
            json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        ],
        "scores": scores,
    }
    text = json.dumps(raw, indent=1)
    (RESULTS / f"tweets_split_by_{split}.json").write_text(text + "\n", "utf-8")
    return scores


def _summary(scores: dict[str, Any]) -> dict[str, Any]:
    card = scores["scorecard"]
    model = {key: card["dimensions"][key]["accuracy"] for key in card["dimensions"]}
    model |= {key: card["overall"][key] for key in ("accuracy", "all_four")}
    beside = card["baselines"].get("tfidf", {})
    return {
        "model": model,
        "tfidf": {key: beside[key] for key in model if key in beside},
        "groups": card["intervals"]["groups"],
        "paired": card["paired"],
        "calibration": {k: scores["calibration"][k] for k in ("before", "after")},
    }


if __name__ == "__main__":
    raise SystemExit(main())
