"""Synthetic learning curves of runs that are healthy, or not in one way."""

from mbti_ray.config import load_run
from mbti_ray.typology import DIMENSIONS

KEYS = [dimension.key for dimension in DIMENSIONS]


def run_config(*overrides):
    return load_run("default", ["optim.warmup_steps=10", *overrides])


def recalls(*, positive=0.5, of_positive, of_negative):
    """The scores of one dimension from the recall of its two poles."""
    right = positive * of_positive + (1 - positive) * of_negative
    return {
        "acc": right,
        "majority": max(positive, 1 - positive),
        "bal": (of_positive + of_negative) / 2,
        "positive": positive,
        "given": positive * of_positive + (1 - positive) * (1 - of_negative),
    }


def even(accuracy):
    return recalls(of_positive=accuracy, of_negative=accuracy)


def epoch(number, *, train, val, train_loss=0.5, loss=0.5, rows=1000, skipped=0):
    """A metrics record; `train` (accuracies), `val` (scores): for all dimensions or for each."""
    trained = train if isinstance(train, dict) else dict.fromkeys(KEYS, train)
    by_dimension = val if set(val) == set(KEYS) else dict.fromkeys(KEYS, val)
    scores = {"rows": float(rows), "loss": loss, "acc_total": 0.3}
    for kind in ("acc", "majority", "bal", "positive", "given"):
        scores |= {f"{kind}_{key}": by_dimension[key][kind] for key in KEYS}
    for kind in ("acc", "majority", "bal"):
        scores[f"{kind}_mean"] = sum(by_dimension[key][kind] for key in KEYS) / 4
    accuracies = {f"acc_{key}": trained[key] for key in KEYS}
    accuracies |= {f"majority_{key}": by_dimension[key]["majority"] for key in KEYS}
    mean = sum(trained.values()) / 4
    return {
        "epoch": number,
        "step": 100 * number,
        "train": {"loss": train_loss, **accuracies, "acc_mean": mean},
        "seconds": 1.0 * number,
        "skipped_steps": skipped,
        "val": scores,
    }


def curve(*points, **more):
    """A run that is the same in all dimensions: (training accuracy, validation accuracy, loss)."""
    return [
        epoch(number, train=train, val=even(accuracy), loss=loss, **more)
        for number, (train, accuracy, loss) in enumerate(points, start=1)
    ]


def one_apart(key, *, train, val, epochs=4, others=0.85, rows=1000):
    """A run in which three dimensions are learned and one is as given, in every epoch."""
    return [
        epoch(
            number,
            train=dict.fromkeys(KEYS, others) | {key: train},
            val=dict.fromkeys(KEYS, even(others)) | {key: val},
            rows=rows,
        )
        for number in range(1, epochs + 1)
    ]


def named(findings):
    return [(finding.name, finding.dimension) for finding in findings]


HEALTHY = curve((0.60, 0.65, 0.6), (0.80, 0.79, 0.45), (0.88, 0.84, 0.38), (0.90, 0.845, 0.375))
OVERFITTED = curve((0.60, 0.62, 0.64), (0.75, 0.66, 0.61), (0.88, 0.66, 0.75), (0.95, 0.65, 0.93))
UNDERFITTED = curve((0.52, 0.51, 0.69), (0.58, 0.57, 0.68), (0.60, 0.58, 0.68))
COLLAPSED = curve((0.70, 0.72, 0.55), (0.80, 0.79, 0.45), (0.52, 0.50, 0.70), (0.5, 0.5, 0.70))
RISING = curve((0.60, 0.65, 0.60), (0.70, 0.72, 0.52), (0.78, 0.78, 0.45))
STUCK = one_apart("sn", train=0.60, val=recalls(positive=0.6, of_positive=0.9, of_negative=0.1))
ONE_POLE = one_apart("sn", train=0.9, val=recalls(positive=0.9, of_positive=1.0, of_negative=0.01))
MEMORIZED = one_apart("jp", train=0.80, val=even(0.51))
SKIPPING = [{**record, "skipped_steps": 60 * record["epoch"]} for record in HEALTHY]
