"""The models that a run may ship (the encoder, TF-IDF, both stacked), and which of them it ships.

The test split is not looked at. Shapes: R rows, 4 dimensions in the order E, N, T, J.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbti_ray.config import RunConfig, override
from mbti_ray.config.schema import Monitor
from mbti_ray.data.dataset import Dataset
from mbti_ray.data.windows import Windows
from mbti_ray.engine.cross_fit import cross_fit_folds
from mbti_ray.engine.loop import Outcome
from mbti_ray.model.classifier import MBTIModel
from mbti_ray.model.stack import Stack, fit_stack
from mbti_ray.model.tfidf import TfidfModel, fit_tfidf
from mbti_ray.scores.bootstrap import Array
from mbti_ray.scores.comparison import NAMES, compare, is_better
from mbti_ray.scores.metrics import Scored


@dataclass(frozen=True)
class RowsRead:
    """What a model makes of R rows: logits [R, 4], and how many tokens or words it read [R]."""

    logits: Array
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """A trained model, and what it makes of the validation and the test rows.

    Attributes:
        config: That of the run, with the reader that this model is.
        short: The beginnings of validation rows; see `shorten_rows`.
        encoder, tfidf, stack: What of these it consists of.
    """

    config: RunConfig
    val: RowsRead
    test: RowsRead
    short: RowsRead
    encoder: MBTIModel | None = None
    tfidf: TfidfModel | None = None
    stack: Stack | None = None

    @property
    def reader(self) -> str:
        return self.config.model.reader


def build_members(
    config: RunConfig,
    data: Dataset,
    short: Windows,
    outcome: Outcome | None,
    cross_fitted: Array | None,
) -> list[Member]:
    """What `model.reader` asks for; for `best` all of them, the simplest first.

    For a stack, `cross_fitted` are the encoder's logits [R, 4] of the training rows, of each row
    from an encoder that was not trained on it; see `cross_fit`.
    """
    encoder = tfidf = None
    rows = [data.splits["val"], data.splits["test"], short]
    if outcome is not None:
        logits = (outcome.val_logits, outcome.test_logits, outcome.short_logits)
        val, test, beginnings = (
            RowsRead(z.double().numpy(), r.tokens) for z, r in zip(logits, rows, strict=True)
        )
        own = _as(config, config.model.encoder_reader)
        encoder = Member(own, val, test, beginnings, encoder=outcome.model)
    if config.model.has_tfidf:
        train = data.splits["train"]
        model = fit_tfidf(train.texts, _targets(config, train))
        val, test, beginnings = (_read_words(model, r.texts) for r in rows)
        tfidf = Member(_as(config, "tfidf"), val, test, beginnings, tfidf=model)
    stack = None
    if encoder is not None and tfidf is not None and cross_fitted is not None:
        stack = _stack(config, data, encoder, tfidf, cross_fitted)
    members = [m for m in (tfidf, encoder, stack) if m is not None]
    return members if config.model.reader == "best" else members[-1:]


def _read_words(model: TfidfModel, texts: Sequence[str]) -> RowsRead:
    words = [*map(model.encode, texts)]
    return RowsRead(model.logits(words), np.array([max(1, len(ids)) for ids in words], np.int64))


def _stack(
    config: RunConfig, data: Dataset, encoder: Member, tfidf: Member, cross_fitted: Array
) -> Member:
    train = data.splits["train"]
    texts, targets, of_tfidf = train.texts, _targets(config, train), np.zeros_like(cross_fitted)
    for fold in cross_fit_folds(train.persons, seed=config.seed):
        rest = np.setdiff1d(np.arange(train.row_count), fold)
        model = fit_tfidf([texts[i] for i in rest], targets[rest])
        of_tfidf[fold] = _read_words(model, [texts[i] for i in fold]).logits
    stack = fit_stack(cross_fitted, of_tfidf, targets)
    of_both = ((encoder.val, tfidf.val), (encoder.test, tfidf.test), (encoder.short, tfidf.short))
    val, test, short = (RowsRead(stack.logits(e.logits, t.logits), e.tokens) for e, t in of_both)
    own = _as(config, "stack")
    return Member(own, val, test, short, encoder.encoder, tfidf.tfidf, stack)


def _targets(config: RunConfig, rows: Windows) -> NDArray[np.float32]:
    return rows.targets(soft=config.loss.targets == "shares")


def _as(config: RunConfig, reader: str) -> RunConfig:
    return override(config, {"model.reader": reader})


def choose_member(
    members: list[Member], scored: list[Scored], monitor: Monitor, *, seed: int
) -> tuple[int, dict[str, Any] | None]:
    """The place of the member to ship, and how it was chosen; None where there is one only.

    They are compared in the score that the run monitors, by their predictions for the validation
    rows. A member replaces a simpler one only if it is better by more than chance explains.
    """
    if len(members) == 1:
        return 0, None
    measure = _measure_of(monitor)
    best, comparisons = 0, []
    for place in range(1, len(members)):
        found = compare(scored[best], scored[place], resamples=1000, seed=seed)
        difference = found["differences"][measure]
        wins = is_better(difference, measure) is True
        comparisons.append(
            {
                "reader": members[place].reader,
                "against": members[best].reader,
                **difference,
                "wins": wins,
            }
        )
        best = place if wins else best
    return best, {
        "reader": members[best].reader,
        "measure": measure,
        "comparisons": comparisons,
        "line": _describe(members[best].reader, measure, comparisons),
    }


def _measure_of(monitor: Monitor) -> str:
    """The measure of a comparison that is nearest to a monitored score."""
    kind, _, of = monitor.partition("_")
    if kind == "f1":
        return "macro_f1"
    if kind == "acc":
        return "accuracy" if of in ("mean", "total") else of
    return "macro_f1" if kind == "bal" else "brier"


def _describe(winner: str, measure: str, comparisons: list[dict[str, Any]]) -> str:
    parts = (
        f"{c['reader']} against {c['against']} {c['value']:+.3f} (p {c['p']:.2g}): "
        + ("better" if c["wins"] else "no better than chance explains")
        for c in comparisons
    )
    return f"ships {winner}, by {NAMES[measure]} on validation: {'; '.join(parts)}"
