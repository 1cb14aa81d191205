"""What a trial costs besides its training, and what a study costs beside plain Optuna + HF Trainer.

    python benchmarks/tune.py [--quick] [--source FILE.csv [--sides ours hf]]

The same points of the same search (preset quick, built-in corpus, three epochs, none stopped), on
two cores, each side in a process of its own; the sides alternate, and medians of the repeats count:

    ours     on_ray.tuning.search, two trials at once in actors that are kept
    nested   the pattern of Ray's documentation: a Tune function that builds a TorchTrainer, two at
             once; the same loop, data and reports, fewer trials because each takes so long
    hf       study.optimize over transformers.Trainer, one trial after the other with both cores,
             evaluating and saving at each epoch as ours does

Overhead of a trial is all the time of its place that is not spent in optimiser steps, so evaluation
and saving count as overhead too: places x (end of the last trial - end of the first round) - the
seconds in steps, over the trials after the first round. Needs `pip install 'mbti_ray[bench]'`. The
last line is one JSON object: overhead_s_per_trial, nested_overhead_s_per_trial, and vs_optuna_hf
(wall time of hf over ours, both from the start of the process to its end). With --source the trials
train on the posts of that file, whose lengths differ, instead of the corpus, whose do not.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from extra import require_bench

from mbti_ray.config import StudyConfig, load_study, override
from mbti_ray.data.dataset import Dataset, prepare_dataset

RESULTS = Path(__file__).parent / "results"
AT_ONCE = 2
TRIALS = {"ours": 12, "nested": 6, "hf": 12}

Trial = dict[str, Any]


def study_config(side: str, storage: str, source: Path | None) -> StudyConfig:
    """The same points for every side, as points to start from."""
    chance = np.random.default_rng(0)
    points = [
        {
            "optim.lr": float(10 ** chance.uniform(-3.3, -2)),
            "optim.weight_decay": float(10 ** chance.uniform(-4, -1)),
            "model.dropout": float(chance.uniform(0, 0.4)),
            "loss.pos_weight": 0.0,
        }
        for _ in range(max(TRIALS.values()))
    ][: TRIALS[side]]
    changes = [
        "fit.epochs=3",
        "fit.patience=null",
        "fit.precision=32",
        "study.scheduler=none",
        "study.try_default=false",
        f"study.trials={len(points)}",
        f"study.start={json.dumps(points)}",
        f"storage={storage}",
    ]
    if source:
        changes += [f"data.source={source}", "data.unit=post", "data.split_by=post"]
    return load_study(None, changes)


def ours(config: StudyConfig, data: Dataset, folder: Path) -> list[Trial]:
    from mbti_ray.on_ray.cluster.resources import cluster_nodes, ray_connection, trial_resources
    from mbti_ray.on_ray.tune.tuner import run_study
    from mbti_ray.runs.run_folder import RunFolder
    from mbti_ray.study.records import records_of

    with ray_connection():
        place = RunFolder(folder)
        place.begin(config, "fresh")
        study, _ = run_study(
            config, [data], place, trial_resources(config, cluster_nodes()), at_once=AT_ONCE
        )
        return [
            {
                "ended": datetime.fromisoformat(str(r.ended)).timestamp(),
                "seconds": r.seconds,
                "value": r.values[0] if r.values else None,
            }
            for r in records_of(study)
        ]


def nested(config: StudyConfig, data: Dataset, folder: Path) -> list[Trial]:
    import ray
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from mbti_ray.on_ray.cluster.resources import ray_connection

    base = override(config, {}).model_dump(mode="json")

    def trial(values: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            nested_loop,
            train_loop_config={"base": base, "values": values, "data": values["data"]},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name=tune.get_context().get_trial_name(),
                storage_path=str(folder),
                callbacks=[TuneReportCallback()],
            ),
        )
        trainer.fit()

    with ray_connection():
        reference = ray.put(data)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"memory": 1}),
            param_space={
                "point": tune.grid_search([dict(p) for p in config.study.start]),
                "data": reference,
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=AT_ONCE),
            run_config=tune.RunConfig(name="nested", storage_path=str(folder), verbose=0),
        )
        results = tuner.fit()
        return [
            {
                "ended": r.metrics["timestamp"],
                "seconds": r.metrics["seconds"],
                "value": r.metrics["acc_mean"],
            }
            for r in results
        ]


def nested_loop(settings: dict[str, Any]) -> None:
    # Ray sends this function by value: what it names has to be imported in it.
    from pathlib import Path

    import ray
    import ray.train
    import torch

    from mbti_ray.config import config_from_dict, override
    from mbti_ray.engine.loop import run
    from mbti_ray.engine.metrics_record import MetricsRecord
    from mbti_ray.engine.worker import Worker
    from mbti_ray.on_ray.train.metrics import flat_report

    class Reporting(Worker):
        def report(
            self, record: MetricsRecord | None, checkpoint: Path | None, *, wait: bool = True
        ) -> None:
            if checkpoint is not None and record is not None:
                saved = ray.train.Checkpoint.from_directory(checkpoint)
                ray.train.report(flat_report(record), checkpoint=saved)

    torch.set_num_threads(1)
    config = override(config_from_dict(settings["base"]), settings["values"]["point"])
    run(config, ray.get(settings["data"]), Reporting(), score_test=False)


def hf(config: StudyConfig, data: Dataset, folder: Path) -> list[Trial]:
    import optuna
    import torch
    import transformers
    from torch import Tensor, nn
    from torch.nn.functional import binary_cross_entropy_with_logits

    from mbti_ray.model.classifier import build_model

    transformers.logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    class Model(nn.Module):
        def __init__(self, dropout: float) -> None:
            super().__init__()
            changed = override(config, {"model.dropout": dropout})
            self.model = build_model(changed.model, vocabulary=len(data.tokenizer), seed=0)

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
        ) -> dict[str, Tensor]:
            logits = self.model(input_ids, attention_mask.bool()).float()
            return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}

    def examples(split: str) -> list[dict[str, Any]]:
        w = data.splits[split]
        labels = w.labels[w.row_index].astype(np.float32)
        return [
            {"input_ids": w.ids[a:b].tolist(), "attention_mask": [1] * int(b - a), "labels": y}
            for a, b, y in zip(w.offsets[:-1], w.offsets[1:], labels, strict=True)
        ]

    def accuracy(prediction: Any) -> dict[str, float]:
        right = (prediction.predictions > 0) == (prediction.label_ids > 0.5)
        return {"acc_mean": float(right.mean())}

    train, val = examples("train"), examples("val")
    ended: list[Trial] = []

    def objective(trial: optuna.Trial) -> float:
        point = config.study.start[trial.number]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            trainer = transformers.Trainer(
                Model(float(point["model.dropout"] or 0.0)),
                transformers.TrainingArguments(
                    place,
                    num_train_epochs=config.fit.epochs,
                    per_device_train_batch_size=config.fit.step_size,
                    learning_rate=point["optim.lr"],
                    weight_decay=point["optim.weight_decay"],
                    warmup_steps=config.optim.warmup_steps,
                    eval_strategy="epoch",
                    save_strategy="epoch",
                    save_total_limit=1,
                    load_best_model_at_end=True,
                    metric_for_best_model="acc_mean",
                    logging_strategy="no",
                    report_to=[],
                    disable_tqdm=True,
                    use_cpu=True,
                    dataloader_pin_memory=False,
                ),
                data_collator=transformers.DataCollatorWithPadding(data.tokenizer),
                train_dataset=train,
                eval_dataset=val,
                compute_metrics=accuracy,
            )
            seconds = trainer.train().metrics["train_runtime"]
            value = float(trainer.evaluate()["eval_acc_mean"])
        ended.append({"ended": time.time(), "seconds": seconds, "value": value})
        return value

    torch.set_num_threads(os.cpu_count() or 1)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}", direction="maximize", study_name="hf"
    )
    study.optimize(objective, n_trials=len(config.study.start))
    return ended


SIDES = {"ours": ours, "nested": nested, "hf": hf}


def overhead(trials: list[Trial]) -> float:
    """Seconds of a place not spent in steps, for each trial after the first round."""
    ordered = sorted(trials, key=lambda t: t["ended"])
    first, rest = ordered[:AT_ONCE], ordered[AT_ONCE:]
    idle = sum(rest[-1 - k]["ended"] - first[k]["ended"] for k in range(AT_ONCE))
    return float((idle - sum(t["seconds"] for t in rest)) / len(rest))


def run_side(side: str, storage: Path, source: Path | None) -> dict[str, Any]:
    """One side in a process of its own, timed from its start to its end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=storage))
    (folder / "study").mkdir()
    command = [sys.executable, __file__, "--side", side, "--storage", str(folder)]
    command += ["--source", str(source)] if source else []
    started = time.perf_counter()
    subprocess.run(command, check=True)
    wall = time.perf_counter() - started
    trials = json.loads((folder / "trials.json").read_text("utf-8"))
    print(f"{side}: {wall:.1f} s for {len(trials)} trials", flush=True)
    return {"wall_s": wall, "trials": trials}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--source", type=Path, help="default: the built-in corpus")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "hf" in options.sides:
        require_bench("accelerate")
    if options.side:
        config = study_config(options.side, str(options.storage), options.source)
        data = prepare_dataset(config, options.storage.parent / "cache")
        trials = SIDES[options.side](config, data, options.storage / "study")
        (options.storage / "trials.json").write_text(json.dumps(trials), "utf-8")
        return 0
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    with tempfile.TemporaryDirectory() as storage:
        # Tokenised before anything is timed, and read from the cache by every side.
        config = study_config("ours", storage, options.source)
        data = prepare_dataset(config, Path(storage) / "cache")
        for _ in range(1 if options.quick else 3):
            for side in options.sides:
                measured[side].append(run_side(side, Path(storage), options.source))
    walls = {
        side: statistics.median(r["wall_s"] for r in found) for side, found in measured.items()
    }
    result = {}
    for side, key in (("ours", "overhead_s_per_trial"), ("nested", "nested_overhead_s_per_trial")):
        if side in measured:
            found = [overhead(r["trials"]) for r in measured[side]]
            result[key] = round(statistics.median(found), 3)
    if {"ours", "hf"} <= measured.keys():
        result["vs_optuna_hf"] = round(walls["hf"] / walls["ours"], 3)
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "transformers", "optuna")},
    }
    windows = data.splits["train"]
    task = {"source": Path(data.info.source).name, "windows": len(windows)}
    task |= {"tokens": int(windows.lengths.sum())}
    raw = {"machine": machine, "task": task, "measured": measured, "wall_s": walls, **result}
    name = "_posts" * bool(options.source) + "_quick" * options.quick
    (RESULTS / f"tune{name}.json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
