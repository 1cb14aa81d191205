"""What a cluster of 1 to 512 GPUs can give, reckoned from what was measured on one machine.

    python benchmarks/scaling.py

Prints the tables of docs/scaling.md. Bytes are counted on the models as they are built, seconds of
a trial's overhead read from results/tune_quick.json; the speed of a GPU is given, not measured: the
seed's (10 epochs of 8,675 users x 512 tokens in 2 h on a V100), and ten times that. A step is
`fit.batch_size x fit.accumulate` windows over all workers, its gradients are exchanged once, in
float32, by a ring: each rank sends and receives 2 (N-1)/N of them. Nothing overlaps: a lower bound.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import DistilBertConfig

from mbti_ray.config import load_run
from mbti_ray.model.classifier import build_model

RESULTS = Path(__file__).parent / "results"
GPUS = (1, 8, 64, 512)
USERS, TOKENS, EPOCHS = 8675, 512, 10
SEED_TOKENS_S = USERS * TOKENS * EPOCHS / 7200
# Bytes a second that a rank sends: 10 Gbit/s as a g5.2xlarge has at its best, 400 Gbit/s as a p4d.
LINKS = {"10 Gbit/s": 1.25e9, "400 Gbit/s": 50e9}


def parameters() -> int:
    """Of DistilBERT with four heads; its shape is transformers' default, no hub is asked."""
    with tempfile.TemporaryDirectory() as folder:
        DistilBertConfig().save_pretrained(folder)
        config = load_run("default", [f"model.encoder={folder}"]).model
        with torch.device("meta"):
            model = build_model(config, vocabulary=30522, seed=0, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def one_run(gpus: int, gradient_bytes: int, tokens_s: float, link: float, windows: int) -> str:
    ranks = min(gpus, windows)
    compute_s = -(-windows // ranks) * TOKENS / tokens_s
    exchange_s = 2 * (ranks - 1) / ranks * gradient_bytes / link
    steps = EPOCHS * USERS / windows
    total_s = steps * (compute_s + exchange_s)
    alone_s = steps * windows * TOKENS / tokens_s
    share = alone_s / total_s / gpus
    return (
        f"{gpus} | {windows // ranks} | {1000 * compute_s:,.0f} | {1000 * exchange_s:,.0f} | "
        f"{total_s / 60:,.1f} min | {share:.0%}"
    )


def main() -> int:
    count = parameters()
    gradient_bytes = 4 * count
    windows = load_run("default", []).fit.step_size
    overhead_s = json.loads((RESULTS / "tune_quick.json").read_text("utf-8"))[
        "overhead_s_per_trial"
    ]
    print(f"parameters {count:,}; gradients {gradient_bytes / 1e6:,.0f} MB a step")
    print(f"checkpoint {12 * count / 1e6:,.0f} MB (weights and AdamW's two moments, float32),")
    print(f"{16 * count / 1e6:,.0f} MB where the best weights are not the current ones")
    print(f"the seed's GPU: {SEED_TOKENS_S:,.0f} tokens/s")
    for factor in (1, 10):
        for name, link in LINKS.items():
            print(f"\n{factor * SEED_TOKENS_S:,.0f} tokens/s a GPU, {name}, {windows} a step")
            print("| GPUs | windows a rank | compute ms | exchange ms | 10 epochs | efficiency |")
            print("|---|---|---|---|---|---|")
            for gpus in GPUS:
                line = one_run(gpus, gradient_bytes, factor * SEED_TOKENS_S, link, windows)
                print(f"| {line} |")
    print("\n| GPUs | trials an hour, 10 epochs each, one GPU a trial | share lost to overhead |")
    print("|---|---|---|")
    for gpus in GPUS:
        trial_s = EPOCHS * USERS * TOKENS / (10 * SEED_TOKENS_S) + overhead_s
        print(f"| {gpus} | {gpus * 3600 / trial_s:,.1f} | {overhead_s / trial_s:.2%} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
