"""Records as scores.json holds them, and a parser of pages, for the tests of pages and cards."""

from copy import deepcopy
from html.parser import HTMLParser

from mbti_ray.scores.findings import Finding
from mbti_ray.typology import DIMENSIONS

KEYS = [d.key for d in DIMENSIONS]
VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = 'a<b>&"quoted"|[c]'


def about(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def dimension(k):
    base = 0.8 + 0.03 * k
    return {
        "accuracy": about(base),
        "balanced_accuracy": about(base - 0.05),
        "macro_f1": about(base - 0.04),
        "mcc": about(0.5 + 0.02 * k, 0.05),
        "auroc": about(0.9),
        "brier": about(0.12),
        "ece": about(0.034),
        "confusion": {"tp": 150 + k, "fn": 50, "fp": 70, "tn": 694 - k},
        "positive": 0.2 + 0.1 * k,
        "reliability": [
            {
                "low": b / 15,
                "high": (b + 1) / 15,
                "count": 0 if b == 7 else 10 + (b - 7) ** 2 * 4,
                "probability": (b + 0.5) / 15,
                "positive": min(1.0, max(0.0, (b + 0.5 + (b % 3 - 1)) / 15)),
            }
            for b in range(15)
        ],
        "abstained": 0.0,
        "accuracy_answered": None,
    }


def rates(value):
    keys = (*KEYS, "accuracy", "all_four", "at_least_three", "macro_f1")
    return {key: about(value - (0.3 if key == "all_four" else 0)) for key in keys}


def scorecard(groups=964):
    dimensions = {key: dimension(k) for k, key in enumerate(KEYS)}
    metrics = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "brier", "ece")
    overall = {m: about(sum(d[m]["value"] for d in dimensions.values()) / 4) for m in metrics}
    return {
        "rows": 964,
        "intervals": {
            "level": 0.95,
            "resampled": "author",
            "groups": groups,
            "resamples": 1000,
            "method": "percentile bootstrap of authors",
        },
        "dimensions": dimensions,
        "overall": overall
        | {"all_four": about(0.52), "at_least_three": about(0.81), "abstained": 0.0},
        "baselines": {
            "majority": {"description": "the majority class of these very rows"} | rates(0.7),
            "most_mentioned": {"description": "the type mentioned most"} | rates(0.75),
            "most_mentioned_masked": {"description": "the same after masking"} | rates(0.7),
        },
        "missing": {"tfidf": "scikit-learn is not installed"},
        "paired": {
            "against": "majority",
            **{key: about(0.1, 0.03) | {"p": 0.0004} for key in (*KEYS, "accuracy")},
            "all_four": about(0.01, 0.03) | {"p": 0.41},
            "macro_f1": about(0.12, 0.03) | {"p": None},
            "test": "sign flips of authors",
        },
    }


def bare(card):
    """The same card without what may be missing."""
    card = deepcopy(card)
    card["intervals"] |= {"resamples": 0}
    for record in (*card["dimensions"].values(), card["overall"]):
        for estimate in record.values():
            if isinstance(estimate, dict) and "low" in estimate:
                estimate |= {"low": None, "high": None}
        record["auroc"] = None
    return card | {"baselines": {}, "missing": {}, "paired": None}


HISTORY = [
    {
        "epoch": epoch,
        "step": 100 * epoch,
        "train": {"loss": 0.6 / epoch, "acc_mean": 0.7 + 0.05 * epoch},
        "val": {
            "loss": 0.62 / epoch**0.5 + 0.02 * epoch,
            "acc_mean": 0.7 + 0.03 * epoch - 0.002 * epoch**2,
            "majority_mean": 0.71,
        },
        "seconds": 9.5,
    }
    for epoch in range(1, 6)
]
CALIBRATION = {
    "temperature": [1.31, 1.12, 1.4, 1.22],
    "thresholds": [0.5, 0.47, 0.5, 0.52],
    "threshold_objective": "balanced_accuracy",
    "abstain": 0.05,
    "before": {"brier": 0.131, "ece": 0.061},
    "after": {"brier": 0.126, "ece": 0.022},
}
FINDINGS = [
    finding.as_dict()
    for finding in (
        Finding(
            "overfitting",
            None,
            f"validation loss rose for 3 epochs, see {NASTY}",
            {"model.dropout": 0.3, "fit.patience": None},
        ),
        Finding("weak", "jp", "MCC 0.02", {}),
    )
]
DATA_INFO = {
    "source": "posts.csv",
    "fingerprint": "0123456789abcdef",
    "split_by": "author",
    "mask_version": 3,
    "mask_also": ["functions"],
    "rows": {"train": 7711, "val": 964, "test": 964},
    "bad": 2,
}
SCORES = {
    "best_epoch": 4,
    "scorecard": scorecard(),
    "calibration": CALIBRATION,
    "diagnosis": FINDINGS,
}


class Elements(HTMLParser):
    """Every element of a page, and what is wrong with its nesting."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text, self.problems = [], [], [], []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> closes another element")

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def words(self):
        # Splits at no-break spaces too.
        return " ".join(" ".join(self.text).split())
