"""What the curves of a run, or the trials of a study, say is wrong with it, and what to try.

The seed's section "Troubleshooting", answered from figures instead of by eye: a finding names the
fault, the figures that show it, and settings to try, derived from the present ones by the seed's
own ratios. Knows configs and reported lines; nothing of models, files or where things run.

Two epochs are looked at: the *last*, where training ended, and the *best*, whose weights are kept.
Training accuracies are running means over an epoch's windows with dropout on: they come out below
what the weights at its end would score, so a gap that shows is there.
"""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbti_ray.config import RunConfig, StudyConfig, overridden, value_at
from mbti_ray.config.schema import Choices, FloatRange, IntRange, Range
from mbti_ray.errors import ConfigError
from mbti_ray.typology import DIMENSIONS, Dimension

Tries = dict[str, Any]

# The seed's "large gap" is 0.95 against 0.65. Half of it counts when the validation loss rises
# too, all of it does by itself.
_GAP = 0.15
_LARGE_GAP = 0.30
# A validation loss moves by a few percent from epoch to epoch with nothing being wrong.
_LOSS_RISE = 0.05
# The seed's "both low" is 0.60 in training and 0.58 in validation. Training accuracy is read as a
# gain, the share removed of the errors that the commonest answer makes, so that 0.88 counts for as
# little where 86 % are N; 0.60 of an even dimension is a gain of 0.20. Validation is read as
# balanced accuracy, which is right also where weights trade accuracy for it.
_LOW_GAIN = 0.25
_LOW_BALANCED = 0.60
# Balanced accuracy of a dimension that tells its poles no better than a coin, up to noise.
_FLAT_BALANCED = 0.55
# One-sided 5 % point: how far a coin gets by luck on so many rows; and two standard errors.
_LUCK = 1.64
_SURE = 2.0
# The public set has 77 % I and 86 % N (imbalanced) and 54 % F and 60 % P (not).
_IMBALANCED = 0.70
# The rarer pole is given almost never: in less than this part of its share.
_RARELY = 0.25
# Poles nearer to each other than this need no weights.
_UNEVEN = 0.05
# Fewer epochs show no trend.
_TREND_EPOCHS = 3
# Still improving: the last epoch alone has brought this much. A run near its best brings less.
_SCORE_STEP = 0.01
_LOSS_STEP = 0.05
_WARMUP_SHARE = 0.5
# What BERT was fine-tuned with (Devlin et al. 2019, run_classifier.py: warmup_proportion).
_USUAL_WARMUP = 0.1
# Loss scaling begins at 2^16 and finds its place by halving: some ten skips are its search.
_SKIPS_OF_SEARCH = 10
_SKIPPED_SHARE = 0.05
# AdamW moves a weight by about lr a step and encoders begin with weights of some 0.02: beyond this
# rate a few steps wipe them out, and a run that learns nothing is to go slower, not faster.
_HIGHEST_LR = 0.01
# More dropout than this is not used (Srivastava et al. 2014), nor is more decay.
_HIGHEST_DROPOUT = 0.5
_HIGHEST_DECAY = 0.5
_FEW_TRIALS = 5
_EDGE = 0.05
# The best alone stands at one edge of a range in 1 of 10 studies by luck: these many best trials
# must lie on the same half.
_AGREEING_TRIALS = 3


@dataclass(frozen=True)
class Finding:
    """One fault, with what shows it.

    Attributes:
        name: What it is called, such as "overfitting".
        dimension: Key of the dimension that it is about (ei, sn, tf, jp), or None for the whole.
        evidence: The figures that show it and their epoch, in one sentence without a full stop.
        tries: Value to try by dotted config address; all valid and other than the present ones.
            Empty where everything that the seed knows is set already.
    """

    name: str
    dimension: str | None
    evidence: str
    tries: Tries

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dimension": self.dimension,
            "evidence": self.evidence,
            "tries": dict(self.tries),
        }

    def command(self) -> str:
        """The tries as `key=value` arguments, quoted for a shell."""
        return " ".join(shlex.quote(f"{a}={_said(value)}") for a, value in self.tries.items())

    def text(self) -> str:
        """One line: `overfitting: ...; try model.dropout=0.3 optim.weight_decay=0.05`."""
        about = [f"({d.name})" for d in DIMENSIONS if d.key == self.dimension]
        line = f"{' '.join([self.name, *about])}: {self.evidence}"
        return f"{line}; try {self.command()}" if self.tries else line


@dataclass(frozen=True)
class StudyTrial:
    """A trial as a study's diagnosis needs it.

    Attributes:
        state: COMPLETE, PRUNED or FAIL; others are not over and are not looked at.
        value: Its best value of the objective; None if it was never evaluated.
        params: Value by dotted address.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]


def diagnose(config: RunConfig, history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What went wrong in a run; nothing for a healthy one.

    A run that has not learned its training texts is underfitting and nothing else: it can neither
    overfit, nor tell which dimension is hard.

    Args:
        history: The line of each epoch, oldest first, with `epoch`, `step`, `train`, `val` and
            `skipped_steps` (step and skipped_steps count from the beginning of the run).
    """
    if not history:
        return []
    curves = _Curves(config, [_Epoch(line) for line in history])
    found = [*_skipped_steps(curves), *_long_warmup(curves)]
    if curves.last.is_low():
        return found + (_underfitting(curves) if curves.best.is_low() else _collapse(curves))
    overfitting = _overfitting(curves)
    found += overfitting or _still_improving(curves)
    for dimension in DIMENSIONS:
        found += _of_dimension(curves, dimension, overfits=bool(overfitting))
    return found


@dataclass(frozen=True)
class _Epoch:
    """A reported line, with what its figures mean."""

    line: Mapping[str, Any]

    @property
    def number(self) -> int:
        return int(self.line["epoch"])

    @property
    def loss(self) -> float:
        return float(self.line["val"]["loss"])

    def train(self, name: str) -> float:
        return float(self.line["train"][name])

    def val(self, name: str) -> float:
        return float(self.line["val"][name])

    def judged(self) -> list[Dimension]:
        """The dimensions of which the validation rows have both poles."""
        return [d for d in DIMENSIONS if self.val(f"majority_{d.key}") < 1]

    def gain(self, key: str) -> float:
        """Share of the commonest answer's errors that training has removed; at most 1."""
        majority = self.val(f"majority_{key}")
        return (self.train(f"acc_{key}") - majority) / (1 - majority)

    def gap(self, key: str) -> float:
        """How far training accuracy lies above validation accuracy, beyond noise."""
        accuracy = self.val(f"acc_{key}")
        # For the mean, the four answers of a row count as one: the cautious side.
        error = math.sqrt(max(0.0, accuracy * (1 - accuracy)) / self.val("rows"))
        gap = self.train(f"acc_{key}") - accuracy
        return gap if gap > _SURE * error else 0.0

    def is_flat(self, key: str, limit: float = _FLAT_BALANCED) -> bool:
        """Whether the balanced accuracy is one that a coin of the same bias could reach."""
        rows, positive = self.val("rows"), self.val(f"positive_{key}")
        given = self.val(f"given_{key}")
        poles = 1 / (rows * positive) + 1 / (rows * (1 - positive))
        luck = _LUCK * 0.5 * math.sqrt(max(0.0, given * (1 - given)) * poles)
        return self.val(f"bal_{key}") < max(limit, 0.5 + luck)

    def is_low(self) -> bool:
        """Whether nothing is learned in any dimension, neither in training nor in validation."""
        judged = self.judged()
        return bool(judged) and all(
            self.gain(d.key) < _LOW_GAIN and self.is_flat(d.key, _LOW_BALANCED) for d in judged
        )


@dataclass(frozen=True)
class _Curves:
    """A run's epochs under its config."""

    config: RunConfig
    epochs: Sequence[_Epoch]

    @property
    def last(self) -> _Epoch:
        return self.epochs[-1]

    @property
    def best(self) -> _Epoch:
        """The epoch whose weights are kept; of equal ones the first, as the engine does it."""
        sign = 1 if self.config.fit.monitor_mode == "min" else -1
        return min(self.epochs, key=lambda e: sign * e.val(self.config.fit.monitor))

    @property
    def lowest_loss(self) -> _Epoch:
        return min(self.epochs, key=lambda e: e.loss)

    @property
    def steps(self) -> int:
        return int(self.last.line["step"])

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of all epochs of the config, whether or not the run stopped early."""
        return round(self.steps / self.last.number * self.config.fit.epochs)

    @property
    def has_long_warmup(self) -> bool:
        return self.config.optim.warmup_steps > _WARMUP_SHARE * self.planned_steps

    def tries(self, values: Mapping[str, Any]) -> Tries:
        """Those values that are other than the present ones."""
        return {a: value for a, value in values.items() if value != value_at(self.config, a)}


def _overfitting(curves: _Curves) -> list[Finding]:
    """Seed: "Train Acc: 0.95, Val Acc: 0.65"."""
    last, lowest = curves.last, curves.lowest_loss
    gap = last.gap("mean")
    rises = last.loss > (1 + _LOSS_RISE) * lowest.loss
    if gap < (_GAP if rises else _LARGE_GAP):
        return []
    evidence = _accuracies(last, "mean")
    if rises:
        evidence += (
            f"; validation loss went from {lowest.loss:.2f} (epoch {lowest.number}) "
            f"to {last.loss:.2f}"
        )
    return [Finding("overfitting", None, evidence, _restrained(curves))]


def _underfitting(curves: _Curves) -> list[Finding]:
    """Seed: "Train Acc: 0.60, Val Acc: 0.58", here measured from the commonest answer."""
    last, fit, dropout = curves.last, curves.config.fit, curves.config.model.dropout
    evidence = (
        f"{_accuracies(last, 'mean')}, where always giving the commonest answer scores "
        f"{last.val('majority_mean'):.2f}"
    )
    # A rate that never came to its peak says nothing about the peak.
    tries = {} if curves.has_long_warmup else _rates(curves.config, _quicker)
    if fit.patience is not None and last.number < fit.epochs:
        # It was not the number of epochs that ended this run.
        tries["fit.patience"] = 2 * fit.patience
    else:
        tries["fit.epochs"] = 2 * fit.epochs
    tries["model.dropout"] = _rounded(dropout / 2)
    return [Finding("underfitting", None, evidence, curves.tries(tries))]


def _collapse(curves: _Curves) -> list[Finding]:
    """Learned and lost again; against it smaller rates, warm-up (Mosbach et al. 2021), clipping."""
    best, last, optim = curves.best, curves.last, curves.config.optim
    evidence = (
        f"training accuracy fell from {best.train('acc_mean'):.2f} (epoch {best.number}) to "
        f"{last.train('acc_mean'):.2f} in epoch {last.number}, where always giving the commonest "
        f"answer scores {last.val('majority_mean'):.2f}"
    )
    tries = {**_rates(curves.config, _half), "optim.clip_norm": optim.clip_norm or 1.0}
    longer = round(_USUAL_WARMUP * curves.planned_steps)
    tries["optim.warmup_steps"] = max(optim.warmup_steps, longer)
    return [Finding("collapse", None, evidence, curves.tries(tries))]


def _still_improving(curves: _Curves) -> list[Finding]:
    if len(curves.epochs) < _TREND_EPOCHS:
        return []
    before, last, monitor = curves.epochs[-2], curves.last, curves.config.fit.monitor
    falls = curves.lowest_loss is last and last.loss < (1 - _LOSS_STEP) * before.loss
    rises = monitor == "loss" or last.val(monitor) >= before.val(monitor) + _SCORE_STEP
    if not (falls and rises and curves.best is last):
        return []
    evidence = (
        f"the last epoch, {last.number}, is the best: validation loss went from "
        f"{before.loss:.2f} to {last.loss:.2f}"
    )
    if monitor != "loss":
        evidence += (
            f" and {monitor} from {before.val(monitor):.2f} to {last.val(monitor):.2f} in it"
        )
    tries = curves.tries({"fit.epochs": 2 * curves.config.fit.epochs})
    return [Finding("still improving", None, evidence, tries)]


def _long_warmup(curves: _Curves) -> list[Finding]:
    warmup, planned = curves.config.optim.warmup_steps, curves.planned_steps
    if not curves.has_long_warmup:
        return []
    evidence = f"the learning rate rises for {warmup} steps, the run has {planned}"
    tries = curves.tries({"optim.warmup_steps": int(_USUAL_WARMUP * planned)})
    return [Finding("warm-up too long", None, evidence, tries)]


def _skipped_steps(curves: _Curves) -> list[Finding]:
    skipped = int(curves.last.line["skipped_steps"])
    if skipped <= max(_SKIPS_OF_SEARCH, _SKIPPED_SHARE * curves.steps):
        return []
    evidence = (
        f"loss scaling left out {skipped} of {curves.steps} steps up to epoch {curves.last.number}"
    )
    # `auto` takes float16 only where the GPU has no bf16.
    precision = "32" if curves.config.fit.precision == "auto" else "bf16-mixed"
    tries = curves.tries({"fit.precision": precision})
    return [Finding("skipped steps", None, evidence, tries)]


def _of_dimension(curves: _Curves, dimension: Dimension, *, overfits: bool) -> list[Finding]:
    """At most one finding: the first of imbalance, learned by heart, does not move."""
    if dimension not in curves.last.judged():
        return []
    if all(_gives_one_pole(epoch, dimension) for epoch in (curves.best, curves.last)):
        return [_imbalance(curves, dimension)]
    if not overfits and _is_learned_by_heart(curves.last, dimension.key):
        evidence = (
            f"{_accuracies(curves.last, dimension.key)}; balanced accuracy "
            f"{curves.last.val(f'bal_{dimension.key}'):.2f}: the texts may say little of it"
        )
        return [Finding("overfitting", dimension.key, evidence, _restrained(curves))]
    return _stuck(curves, dimension)


def _gives_one_pole(epoch: _Epoch, dimension: Dimension) -> bool:
    """Whether the poles are uneven and the rarer one is hardly ever given."""
    positive, given = epoch.val(f"positive_{dimension.key}"), epoch.val(f"given_{dimension.key}")
    if positive > 0.5:
        positive, given = 1 - positive, 1 - given
    return (
        1 - positive >= _IMBALANCED
        and given < _RARELY * positive
        and epoch.val(f"bal_{dimension.key}") < _LOW_BALANCED
    )


def _imbalance(curves: _Curves, dimension: Dimension) -> Finding:
    """Seed: "Data imbalance (e.g., 90% N, 10% S)"."""
    best, key = curves.best, dimension.key
    positive, given = best.val(f"positive_{key}"), best.val(f"given_{key}")
    pole, share, answers = dimension.positive, positive, given
    if positive < 0.5:
        pole, share, answers = dimension.negative, 1 - positive, 1 - given
    evidence = (
        f"{share:.0%} of the validation rows are {pole} and {answers:.0%} are given {pole} in "
        f"epoch {best.number}: accuracy {best.val(f'acc_{key}'):.2f}, balanced accuracy "
        f"{best.val(f'bal_{key}'):.2f}"
    )
    tries: Tries = {}
    # A power of 1 is balanced already; four chosen weights are for who chose them to change.
    present = curves.config.loss.pos_weight
    if not isinstance(present, tuple) and present != 1.0:
        tries["loss.pos_weight"] = "balanced"
    tries["scoring.threshold"] = "balanced_accuracy"
    tries["fit.monitor"] = "bal_mean"
    return Finding("imbalance", key, evidence, curves.tries(tries))


def _is_learned_by_heart(epoch: _Epoch, key: str) -> bool:
    large = _LARGE_GAP * (1 - epoch.val(f"majority_{key}"))
    return epoch.is_flat(key) and epoch.gain(key) >= _LOW_GAIN and epoch.gap(key) > large


def _stuck(curves: _Curves, dimension: Dimension) -> list[Finding]:
    """Seed: "One dimension not converging"."""
    best, last, key = curves.best, curves.last, dimension.key
    looks = (best, last)
    moves = any(epoch.gain(key) >= _LOW_GAIN or not epoch.is_flat(key) for epoch in looks)
    if moves or len(curves.epochs) < _TREND_EPOCHS:
        return []
    evidence = (
        f"{_accuracies(last, key)}, majority {last.val(f'majority_{key}'):.2f}, balanced accuracy "
        f"{last.val(f'bal_{key}'):.2f}, while another dimension has learned"
    )
    tries = {**_own_weight(curves, dimension), "loss.kind": "focal"}
    return [Finding("dimension does not move", key, evidence, curves.tries(tries))]


def _own_weight(curves: _Curves, dimension: Dimension) -> Tries:
    """Weights that balance this dimension and leave the others as they are.

    The seed writes [1.0, 3.0, 1.0, 1.0] for S/N; a weight multiplies the positive pole, so where N
    is the commoner one the number that helps is below 1.
    """
    present = curves.config.loss.pos_weight
    positive = curves.last.val(f"positive_{dimension.key}")
    if isinstance(present, tuple):
        weights = list(present)
    elif present in ("none", 0.0):
        weights = [1.0] * len(DIMENSIONS)
    else:
        return {}
    if abs(positive - 0.5) < _UNEVEN:
        return {}
    weights[DIMENSIONS.index(dimension)] = _rounded((1 - positive) / positive)
    return {} if tuple(weights) == present else {"loss.pos_weight": weights}


def _restrained(curves: _Curves) -> Tries:
    """The seed's four against overfitting: dropout 0.1 to 0.3, decay x5, rate /2, patience 3."""
    model, optim = curves.config.model, curves.config.optim
    dropout = min(max(0.3, 1.5 * model.dropout), _HIGHEST_DROPOUT)
    decay = min(5 * optim.weight_decay or 0.05, _HIGHEST_DECAY)
    changed = curves.tries(
        {
            "model.dropout": max(model.dropout, dropout),
            "optim.weight_decay": max(optim.weight_decay, decay),
            **_rates(curves.config, _half),
            "fit.patience": min(curves.config.fit.patience or 3, 3),
        }
    )
    return {a: _rounded(v) if isinstance(v, float) else v for a, v in changed.items()}


def _rates(config: RunConfig, change: Callable[[float, float], float]) -> Tries:
    """The learning rates that are in force, changed."""
    optim, heads_only = config.optim, config.model.trainable == "heads"
    highest = math.inf if heads_only else _HIGHEST_LR
    rates = {}
    if not heads_only or optim.head_lr is None:
        rates["optim.lr"] = change(optim.lr, highest)
    if optim.head_lr is not None:
        rates["optim.head_lr"] = change(optim.head_lr, math.inf)
    return rates


def _half(rate: float, _: float) -> float:
    return _rounded(rate / 2)


def _quicker(rate: float, highest: float) -> float:
    """The seed's 2e-5 to 5e-5; where that is beyond all use the rate is likely far too high."""
    return _rounded(rate * 2.5 if rate * 2.5 <= highest else rate / 10)


def diagnose_study(config: StudyConfig, trials: Sequence[StudyTrial]) -> list[Finding]:
    """What the trials of a study show of its search; nothing where it needs no change."""
    failed = [t for t in trials if t.state == "FAIL"]
    over = [t for t in trials if t.state in ("COMPLETE", "PRUNED", "FAIL")]
    if not over:
        return []
    if 2 * len(failed) > len(over):
        return [_most_fail(config, over, failed)]
    evaluated = [t for t in over if t.state != "FAIL" and t.value is not None]
    sign = 1 if config.objective == "loss" else -1
    ranked = sorted(evaluated, key=lambda t: (sign * (t.value or 0.0), t.number))
    return [*_few_complete(config, over), *_edges(config, ranked)]


def _most_fail(
    config: StudyConfig, over: Sequence[StudyTrial], failed: Sequence[StudyTrial]
) -> Finding:
    """What failed, with the one range to cut where all failures lie above all the rest."""
    evidence = f"{len(failed)} of {len(over)} trials failed"
    rest = [t for t in over if t.state != "FAIL"]
    for address, searched in config.search.items():
        good = [t.params[address] for t in rest if address in t.params]
        bad = [t.params[address] for t in failed if address in t.params]
        if isinstance(searched, Choices) or not good or max(good) >= min(bad, default=-math.inf):
            continue
        low, _ = _ends(searched)
        if max(good) > low:
            evidence += f", all with {address} above {max(good):.3g} and no other above it"
            cut = _with_ends(searched, low, max(good))
            return Finding("most trials fail", None, evidence, {f"search.{address}": _plain(cut)})
    return Finding("most trials fail", None, evidence, {})


def _few_complete(config: StudyConfig, over: Sequence[StudyTrial]) -> list[Finding]:
    complete = sum(t.state == "COMPLETE" for t in over)
    if complete >= _FEW_TRIALS:
        return []
    stopped = sum(t.state == "PRUNED" for t in over)
    evidence = (
        f"{complete} of {len(over)} trials ran to their end ({stopped} stopped early): too few to "
        "prefer one to another"
    )
    # As many as bring five to their end at this pace, but no more than four times as many.
    wanted = math.ceil(config.study.trials * min(4.0, _FEW_TRIALS / max(complete, 1)))
    return [Finding("few trials complete", None, evidence, {"study.trials": wanted})]


def _edges(config: StudyConfig, ranked: Sequence[StudyTrial]) -> Iterator[Finding]:
    """A finding for each range at whose end the best trial stands, with others near it.

    Args:
        ranked: The evaluated trials, best first.
    """
    if len(ranked) < _FEW_TRIALS:
        return
    best = ranked[0]
    for address, searched in config.search.items():
        # Choices have no order, so no edge.
        if isinstance(searched, Choices) or any(address not in t.params for t in ranked):
            continue
        places = [_place(searched, t.params[address]) for t in ranked[:_AGREEING_TRIALS]]
        if places[0] <= _EDGE and max(places) < 0.5:
            end = "low"
        elif places[0] >= 1 - _EDGE and min(places) > 0.5:
            end = "high"
        else:
            continue
        wider = _widened(config, address, searched, end)
        if wider is None:
            continue
        low, high = _ends(searched)
        evidence = (
            f"the best trial, {best.number} ({config.objective} {best.value:.4g}), has {address}="
            f"{best.params[address]:.3g}, at the {end} end of the range {low:.3g} to {high:.3g}, "
            f"and the {_AGREEING_TRIALS - 1} after it lie in the same half"
        )
        yield Finding(
            "best at the edge of a range", None, evidence, {f"search.{address}": _plain(wider)}
        )


def _place(searched: FloatRange | IntRange, value: float) -> float:
    """Where a value lies in its range, from 0 to 1 on the range's own scale."""
    low, high = _ends(searched)
    if isinstance(searched, FloatRange) and searched.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _widened(
    config: StudyConfig, address: str, searched: FloatRange | IntRange, end: str
) -> Range | None:
    """The range with one end moved out by half its width, or by as much as the setting allows."""
    for part in (0.5, 0.25, 0.125):
        moved = _moved(searched, end, part)
        try:
            overridden(config, {address: moved})
        except ConfigError:
            continue
        low, high = _ends(searched)
        return _with_ends(searched, *((moved, high) if end == "low" else (low, moved)))
    return None


def _moved(searched: FloatRange | IntRange, end: str, part: float) -> float:
    low, high = _ends(searched)
    outward = -1 if end == "low" else 1
    edge = low if end == "low" else high
    if isinstance(searched, IntRange):
        return edge + outward * math.ceil((high - low) * part)
    if searched.log:
        return _rounded(edge * (high / low) ** (outward * part))
    return _rounded(edge + outward * (high - low) * part)


def _ends(searched: FloatRange | IntRange) -> tuple[float, float]:
    if isinstance(searched, FloatRange):
        return searched.low, searched.high
    return searched.int_low, searched.int_high


def _with_ends(searched: FloatRange | IntRange, low: float, high: float) -> Range:
    if isinstance(searched, FloatRange):
        return FloatRange(low=low, high=high, log=searched.log)
    return IntRange(int_low=int(low), int_high=int(high))


def _plain(searched: Range) -> dict[str, Any]:
    """A range as it is written under `search`."""
    return searched.model_dump(mode="json")


def _accuracies(epoch: _Epoch, key: str) -> str:
    return (
        f"training accuracy {epoch.train(f'acc_{key}'):.2f}, validation "
        f"{epoch.val(f'acc_{key}'):.2f} in epoch {epoch.number}"
    )


def _rounded(value: float) -> float:
    """Three digits: a value to try is no measurement."""
    return float(f"{value:.3g}")


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
