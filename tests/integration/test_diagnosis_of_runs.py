"""Real runs of a tiny encoder, each made to fail in one way, and what is found in them."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from mbti_ray.config import RunConfig, load_run, override
from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.dataset import prepare_dataset
from mbti_ray.data.rows import Row
from mbti_ray.engine.loop import run
from mbti_ray.engine.worker import Worker
from mbti_ray.scores.diagnosis import diagnose
from mbti_ray.scores.findings import Finding
from mbti_ray.typology import TYPES

pytestmark = pytest.mark.integration

Labeled = list[tuple[str, Row]]
# A run's config and what was found in it.
Diagnosed = tuple[RunConfig, list[Finding]]
RunOf = Callable[..., Diagnosed]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    # As everywhere in this tier: the number of threads decides the order of sums.
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def people() -> Labeled:
    """960 users, type after type in turn: even in every dimension, so learned in a few epochs."""
    of_type: dict[str, Labeled] = {mbti_type: [] for mbti_type in TYPES}
    for row in builtin_rows(users=60 * 240):
        of_type[str(row.mbti_type)].append((str(row.mbti_type), row))
    return [of_type[mbti_type][place] for place in range(60) for mbti_type in TYPES]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where users that several runs train on are prepared once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def diagnosed(tmp_path: Path, cache: Path) -> RunOf:
    """Trains the quick preset on the given users and diagnoses the run."""

    def train(users: Labeled, *overrides: str) -> Diagnosed:
        source = tmp_path / "people.csv"
        write_users(source, users)
        config = load_run("quick", [f"data.source={source}", "data.val_share=0.2", *overrides])
        return config, diagnose(config, history_of(config, cache))

    return train


def history_of(config: RunConfig, cache: Path) -> list[dict[str, Any]]:
    return run(config, prepare_dataset(config, cache), Worker(), score_test=False).progress.history


def write_users(path: Path, users: Labeled) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["type", "posts", "id"])
        for mbti_type, row in users:
            writer.writerow([mbti_type, "|||".join(row.posts), f"user-{row.number}"])


def relabeled(users: Labeled, place: int, letters: Iterable[str]) -> Labeled:
    """The users with other letters at one place of their types."""
    return [
        (mbti_type[:place] + letter + mbti_type[place + 1 :], row)
        for (mbti_type, row), letter in zip(users, letters, strict=True)
    ]


def named(findings: list[Finding]) -> set[tuple[str, str | None]]:
    return {(finding.name, finding.dimension) for finding in findings}


def test_a_run_that_learns_has_no_finding_but_cut_short_is_still_improving(
    people: Labeled, cache: Path, tmp_path: Path
) -> None:
    source = tmp_path / "people.csv"
    write_users(source, people)
    config = load_run("quick", [f"data.source={source}", "data.val_share=0.2", "fit.epochs=7"])
    history = history_of(config, cache)
    assert diagnose(config, history) == []
    short = override(config, {"fit.epochs": 3})
    assert ("still improving", None) in named(diagnose(short, history[:3]))


def test_labels_drawn_by_lot_are_learned_by_heart_and_called_overfitting(
    diagnosed: RunOf, people: Labeled
) -> None:
    types = Random(0).choices(TYPES, k=120)
    lots = [(mbti_type, row) for mbti_type, (_, row) in zip(types, people[:120], strict=True)]
    config, findings = diagnosed(
        lots,
        "fit.epochs=16",
        "fit.patience=null",
        "model.dropout=0",
        "optim.lr=6e-3",
        "optim.warmup_steps=5",
    )
    assert named(findings) == {("overfitting", None)}
    (finding,) = findings
    assert "in epoch 16; validation loss rose from 0." in finding.evidence
    assert finding.tries == {
        "model.dropout": 0.3,
        "optim.weight_decay": 0.05,
        "optim.lr": 0.003,
        "fit.patience": 3,
    }
    assert override(config, finding.tries).model.dropout == 0.3


def test_a_rate_of_next_to_nothing_is_called_underfitting(
    diagnosed: RunOf, people: Labeled
) -> None:
    _, findings = diagnosed(people[:480], "optim.lr=1e-7", "fit.epochs=3", "optim.warmup_steps=3")
    assert named(findings) == {("underfitting", None)}
    assert findings[0].tries == {"optim.lr": 2.5e-7, "fit.epochs": 6, "model.dropout": 0.05}


def test_a_rate_that_wipes_the_weights_out_is_not_told_to_go_faster(
    diagnosed: RunOf, people: Labeled
) -> None:
    _, findings = diagnosed(people[:480], "optim.lr=0.3", "fit.epochs=4", "fit.patience=null")
    assert named(findings) == {("underfitting", None)}
    assert findings[0].tries["optim.lr"] == 0.03


def test_the_shuffled_dimension_is_the_one_that_does_not_move(
    diagnosed: RunOf, people: Labeled
) -> None:
    letters = [mbti_type[2] for mbti_type, _ in people]
    Random(0).shuffle(letters)
    _, findings = diagnosed(relabeled(people, 2, letters), "fit.epochs=5")
    assert named(findings) == {("dimension does not move", "tf")}
    # T and F are even here: weights would change nothing.
    assert findings[0].tries == {"loss.kind": "focal"}


def test_one_pole_for_nearly_all_without_a_sign_in_the_text_is_called_imbalance(
    diagnosed: RunOf, people: Labeled
) -> None:
    lots = Random(0)
    letters = ["S" if lots.random() < 0.05 else "N" for _ in people]
    _, findings = diagnosed(relabeled(people, 1, letters), "fit.epochs=8")
    assert named(findings) == {("imbalance", "sn")}
    (finding,) = findings
    assert "of the validation rows are N and 100% are predicted N" in finding.evidence
    assert finding.tries == {
        "loss.pos_weight": "balanced",
        "scoring.threshold": "balanced_accuracy",
        "fit.monitor": "bal_mean",
    }


def test_balancing_as_the_finding_says_ends_the_imbalance(
    diagnosed: RunOf, people: Labeled
) -> None:
    """E/I is about as uneven as in the public set and does show in the text; the run is short."""
    uneven = [(t, row) for n, (t, row) in enumerate(people) if t[0] == "I" or n // 16 % 4 == 0]
    _, before = diagnosed(uneven, "fit.epochs=4")
    assert ("imbalance", "ei") in named(before)
    (found,) = [finding for finding in before if finding.dimension == "ei"]
    _, after = diagnosed(
        uneven, "fit.epochs=4", *(f"{address}={value}" for address, value in found.tries.items())
    )
    assert ("imbalance", "ei") not in named(after)


WORDS = {
    "INFP": "quiet dream whim tears forgive wander silence library heart pattern",
    "ESTJ": "debug plan recipe bolt loud crowd logic order stage ledger",
}
FILLERS = "the and of with some it very for was we maybe a on"


def nearly_one_type(path: Path) -> str:
    """190 users who are INFP and 10 who are ESTJ: 95 to 5 in every dimension, and it shows."""
    words = Random(0)
    rows = ["type,posts"]
    for mbti_type, count in (("INFP", 190), ("ESTJ", 10)):
        for _ in range(count):
            posts = [words.choices(f"{WORDS[mbti_type]} {FILLERS}".split(), k=12) for _ in range(2)]
            rows.append(f"{mbti_type},{'|||'.join(' '.join(post) for post in posts)}")
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return f"data.source={path}"


def test_a_majority_that_hides_a_perfect_ranking_is_imbalance_and_not_underfitting(
    tmp_path: Path, cache: Path
) -> None:
    source = nearly_one_type(tmp_path / "people.csv")
    config = load_run("quick", [source, "fit.epochs=8", "optim.warmup_steps=2"])
    history = history_of(config, cache)
    assert max(record["val"]["auroc_ei"] for record in history) == 1
    findings = diagnose(config, history)
    assert named(findings) == {("imbalance", key) for key in ("ei", "sn", "tf", "jp")}
    assert any("AUROC 1.00" in finding.evidence for finding in findings)
    assert all(finding.tries["loss.pos_weight"] == "balanced" for finding in findings)
    balanced = override(config, {"loss.pos_weight": "balanced"})
    history = history_of(balanced, cache)
    assert max(record["val"]["acc_total"] for record in history) == 1
    assert diagnose(balanced, history) == []


def test_a_warmup_beyond_the_end_is_named_and_the_rate_is_left_alone(
    diagnosed: RunOf, people: Labeled
) -> None:
    _, findings = diagnosed(people[:480], "fit.epochs=2", "optim.warmup_steps=500")
    assert named(findings) == {("warm-up too long", None), ("underfitting", None)}
    assert not any("optim.lr" in finding.tries for finding in findings)
