"""Diagnosis of a run from its learning curves: what is wrong with it, and what to try.

The seed's section "Troubleshooting", applied to metrics instead of by eye: a finding names the
problem, the evidence, and settings to try, derived from the current ones by the seed's own ratios.
Knows configs and metrics records; must not know models, files or where training runs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mbti_ray.config import RunConfig
from mbti_ray.scores.curves import LOW_BALANCED, LOW_GAIN, Curves, Epoch
from mbti_ray.scores.findings import Finding, Tries, round_to_try
from mbti_ray.typology import DIMENSIONS, Dimension

# The seed's "large gap" is 0.95 against 0.65. On its own a gap must be that large; half of it is
# enough where the validation loss rises too.
_GAP, _LARGE_GAP = 0.15, 0.30
# A validation loss fluctuates by a few percent between epochs of a healthy run.
_LOSS_RISE = 0.05
# The public set has 77 % I and 86 % N (imbalanced) and 54 % F and 60 % P (not).
_IMBALANCED = 0.70
# The minority class is hardly ever predicted: less often than this fraction of its share.
_RARELY = 0.25
# Poles whose share is nearer to 0.5 than this need no weights.
_UNEVEN = 0.05
# Fewer epochs show no trend.
_TREND_EPOCHS = 3
# Still improving: the last epoch alone gained this much; near its best a run gains less.
_SCORE_STEP, _LOSS_STEP = 0.01, 0.05
# What BERT was fine-tuned with (Devlin et al. 2019, run_classifier.py: warmup_proportion).
_USUAL_WARMUP = 0.1
# The loss scale starts at 2^16 and is halved until it fits, which may skip some ten steps.
_INITIAL_SKIPS, _SKIPPED_SHARE = 10, 0.05
# AdamW moves a weight by about lr per step, and encoders start with weights of about 0.02: above
# this rate a few steps erase them, and a run that learns nothing needs a lower rate.
_HIGHEST_LR = 0.01
# More dropout than this is not used (Srivastava et al. 2014), nor more weight decay.
_HIGHEST_DROPOUT = _HIGHEST_DECAY = 0.5


def diagnose(config: RunConfig, history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What went wrong in a run; empty for a healthy one.

    A run that has not learned its training texts is underfitting and nothing else: it cannot
    overfit, and does not show which dimension is hard. The exception is imbalance, which hides
    what a run has learned: only the majority is predicted, however well the rows are ranked.

    Args:
        history: The metrics record of each epoch, oldest first, with `epoch`, `step`, `train`,
            `val` and `skipped_steps` (the last and `step` count from the start of the run).
    """
    if not history:
        return []
    curves = Curves(config, [Epoch(record) for record in history])
    findings = [*_skipped_steps(curves), *_long_warmup(curves)]
    if curves.last.is_low():
        return findings + (_low(curves) if curves.best.is_low() else _collapse(curves))
    overfitting = _overfitting(curves)
    findings += overfitting or _still_improving(curves)
    for dimension in DIMENSIONS:
        findings += _of_dimension(curves, dimension, overfits=bool(overfitting))
    return findings


def _overfitting(curves: Curves) -> list[Finding]:
    """Seed: "Train Acc: 0.95, Val Acc: 0.65"."""
    last, lowest = curves.last, curves.lowest_loss
    rises = last.loss > (1 + _LOSS_RISE) * lowest.loss
    if last.gap("mean") < (_GAP if rises else _LARGE_GAP):
        return []
    evidence = _accuracies(last, "mean")
    if rises:
        evidence += (
            f"; validation loss rose from {lowest.loss:.2f} (epoch {lowest.number}) "
            f"to {last.loss:.2f}"
        )
    return [Finding("overfitting", None, evidence, _regularize(curves))]


def _underfitting(curves: Curves) -> list[Finding]:
    """Seed: "Train Acc: 0.60, Val Acc: 0.58", here relative to the majority class."""
    last, fit, dropout = curves.last, curves.config.fit, curves.config.model.dropout
    evidence = (
        f"{_accuracies(last, 'mean')}, where always predicting the majority class scores "
        f"{last.val('majority_mean'):.2f}"
    )
    # A learning rate that never reached its peak tells nothing about the peak.
    tries = {} if curves.has_long_warmup else _rates(curves.config, _faster)
    if fit.patience is not None and last.number < fit.epochs:
        # Early stopping ended this run, not the number of epochs.
        tries["fit.patience"] = 2 * fit.patience
    else:
        tries["fit.epochs"] = 2 * fit.epochs
    tries["model.dropout"] = round_to_try(dropout / 2)
    return [Finding("underfitting", None, evidence, curves.tries(tries))]


def _collapse(curves: Curves) -> list[Finding]:
    """Learned and lost again: lower rates, warm-up (Mosbach et al. 2021) and clipping help."""
    best, last, optim = curves.best, curves.last, curves.config.optim
    evidence = (
        f"training accuracy fell from {best.train('acc_mean'):.2f} (epoch {best.number}) to "
        f"{last.train('acc_mean'):.2f} in epoch {last.number}, where always predicting the "
        f"majority class scores {last.val('majority_mean'):.2f}"
    )
    tries = {**_rates(curves.config, _half), "optim.clip_norm": optim.clip_norm or 1.0}
    usual = round(_USUAL_WARMUP * curves.planned_steps)
    if usual > curves.warmup:
        tries["optim.warmup_steps"] = usual
    return [Finding("collapse", None, evidence, curves.tries(tries))]


def _still_improving(curves: Curves) -> list[Finding]:
    if len(curves.epochs) < _TREND_EPOCHS:
        return []
    before, last, monitor = curves.epochs[-2], curves.last, curves.config.fit.monitor
    falls = curves.lowest_loss is last and last.loss < (1 - _LOSS_STEP) * before.loss
    is_lower_better = curves.config.fit.monitor_mode == "min"
    rises = is_lower_better or last.val(monitor) >= before.val(monitor) + _SCORE_STEP
    if not (falls and rises and curves.best is last):
        return []
    evidence = (
        f"the last epoch, {last.number}, is the best: in it validation loss fell from "
        f"{before.loss:.2f} to {last.loss:.2f}"
    )
    if not is_lower_better:
        evidence += f" and {monitor} rose from {before.val(monitor):.2f} to {last.val(monitor):.2f}"
    tries = curves.tries({"fit.epochs": 2 * curves.config.fit.epochs})
    return [Finding("still improving", None, evidence, tries)]


def _long_warmup(curves: Curves) -> list[Finding]:
    warmup, planned = curves.warmup, curves.planned_steps
    if not curves.has_long_warmup:
        return []
    evidence = f"the learning rate warms up for {warmup} steps, and the run has {planned}"
    tries = curves.tries({"optim.warmup_steps": int(_USUAL_WARMUP * planned)})
    return [Finding("warm-up too long", None, evidence, tries)]


def _skipped_steps(curves: Curves) -> list[Finding]:
    skipped, steps = (int(curves.last.record[name]) for name in ("skipped_steps", "step"))
    if skipped <= max(_INITIAL_SKIPS, _SKIPPED_SHARE * steps):
        return []
    evidence = f"loss scaling skipped {skipped} of {steps} steps up to epoch {curves.last.number}"
    # `auto` uses float16 only where the GPU has no bf16.
    precision = "32" if curves.config.fit.precision == "auto" else "bf16-mixed"
    return [Finding("skipped steps", None, evidence, curves.tries({"fit.precision": precision}))]


def _of_dimension(curves: Curves, dimension: Dimension, *, overfits: bool) -> list[Finding]:
    """At most one finding: the first of imbalance, memorized, not learned."""
    if dimension not in curves.last.judged():
        return []
    if all(_predicts_one_pole(epoch, dimension) for epoch in (curves.best, curves.last)):
        return [_imbalance(curves, dimension)]
    if not overfits and _is_memorized(curves.last, dimension.key):
        evidence = (
            f"{_accuracies(curves.last, dimension.key)}; balanced accuracy "
            f"{curves.last.val(f'bal_{dimension.key}'):.2f}: the texts may not show it"
        )
        return [Finding("overfitting", dimension.key, evidence, _regularize(curves))]
    return _not_learned(curves, dimension)


def _low(curves: Curves) -> list[Finding]:
    """Of a run that predicts no better than the majority class, from its first epoch to its last.

    Dimensions of which only the majority is predicted while one of them is ranked well are
    imbalanced. If none is ranked well, either may be the reason.
    """
    epochs, judged = (curves.best, curves.last), curves.last.judged()
    one_pole = [d for d in judged if all(_predicts_one_pole(e, d) for e in epochs)]
    is_ranked = any(e.is_well_ranked(d.key) for e in epochs for d in one_pole)
    is_all = len(one_pole) == len(judged)
    imbalances = [_imbalance(curves, d) for d in one_pole] if is_ranked or is_all else []
    return imbalances + ([] if is_ranked and is_all else _underfitting(curves))


def _predicts_one_pole(epoch: Epoch, dimension: Dimension) -> bool:
    """Whether the poles are imbalanced and the minority class is hardly ever predicted."""
    positive, given = epoch.val(f"positive_{dimension.key}"), epoch.val(f"given_{dimension.key}")
    if positive > 0.5:
        positive, given = 1 - positive, 1 - given
    return (
        1 - positive >= _IMBALANCED
        and given < _RARELY * positive
        and epoch.val(f"bal_{dimension.key}") < LOW_BALANCED
    )


def _imbalance(curves: Curves, dimension: Dimension) -> Finding:
    """Seed: "Data imbalance (e.g., 90% N, 10% S)"."""
    best, key = curves.best, dimension.key
    positive, given = best.val(f"positive_{key}"), best.val(f"given_{key}")
    pole, share, predicted = dimension.positive, positive, given
    if positive < 0.5:
        pole, share, predicted = dimension.negative, 1 - positive, 1 - given
    evidence = (
        f"{share:.0%} of the validation rows are {pole} and {predicted:.0%} are predicted {pole} "
        f"in epoch {best.number}: accuracy {best.val(f'acc_{key}'):.2f}, balanced accuracy "
        f"{best.val(f'bal_{key}'):.2f}"
    )
    auroc = best.auroc(key)
    if auroc is not None:
        evidence += f", AUROC {auroc:.2f}"
    tries: Tries = {}
    # A power of 1 is balanced already; explicit weights are left to whoever set them.
    current = curves.config.loss.pos_weight
    if not isinstance(current, tuple) and current != 1.0:
        tries["loss.pos_weight"] = "balanced"
    tries["scoring.threshold"] = "balanced_accuracy"
    tries["fit.monitor"] = "bal_mean"
    return Finding("imbalance", key, evidence, curves.tries(tries))


def _is_memorized(epoch: Epoch, key: str) -> bool:
    large = _LARGE_GAP * (1 - epoch.val(f"majority_{key}"))
    return epoch.is_flat(key) and epoch.gain(key) >= LOW_GAIN and epoch.gap(key) > large


def _not_learned(curves: Curves, dimension: Dimension) -> list[Finding]:
    """Seed: "One dimension not converging"."""
    best, last, key = curves.best, curves.last, dimension.key
    is_learned = any(e.gain(key) >= LOW_GAIN or not e.is_flat(key) for e in (best, last))
    if is_learned or len(curves.epochs) < _TREND_EPOCHS:
        return []
    evidence = (
        f"{_accuracies(last, key)}, majority {last.val(f'majority_{key}'):.2f}, balanced accuracy "
        f"{last.val(f'bal_{key}'):.2f}, while another dimension is learned"
    )
    tries = {**_own_weight(curves, dimension), "loss.kind": "focal"}
    return [Finding("dimension does not move", key, evidence, curves.tries(tries))]


def _own_weight(curves: Curves, dimension: Dimension) -> Tries:
    """Weights that balance this dimension and leave the others unchanged.

    The seed has [1.0, 3.0, 1.0, 1.0] for S/N; a weight multiplies the positive pole, so where N is
    the majority class the weight that helps is below 1.
    """
    current = curves.config.loss.pos_weight
    positive = curves.last.val(f"positive_{dimension.key}")
    if isinstance(current, tuple):
        weights = list(current)
    elif current in ("none", 0.0):
        weights = [1.0] * len(DIMENSIONS)
    else:
        return {}
    if abs(positive - 0.5) < _UNEVEN:
        return {}
    weights[DIMENSIONS.index(dimension)] = round_to_try((1 - positive) / positive)
    return {} if tuple(weights) == current else {"loss.pos_weight": weights}


def _regularize(curves: Curves) -> Tries:
    """The seed's four remedies for overfitting: dropout 0.3, decay x5, rate /2, patience 3."""
    model, optim = curves.config.model, curves.config.optim
    dropout = min(max(0.3, 1.5 * model.dropout), _HIGHEST_DROPOUT)
    decay = min(5 * optim.weight_decay or 0.05, _HIGHEST_DECAY)
    tries = {
        "model.dropout": max(model.dropout, dropout),
        "optim.weight_decay": max(optim.weight_decay, decay),
        **_rates(curves.config, _half),
        "fit.patience": min(curves.config.fit.patience or 3, 3),
    }
    changed = curves.tries(tries)
    return {a: round_to_try(v) if isinstance(v, float) else v for a, v in changed.items()}


def _rates(config: RunConfig, change: Callable[[float, float], float]) -> Tries:
    """The learning rates that take effect, changed."""
    optim, heads_only = config.optim, config.model.trainable == "heads"
    rates = {} if heads_only else {"optim.lr": change(optim.lr, _HIGHEST_LR)}
    if heads_only or optim.head_lr is not None:
        rates["optim.head_lr"] = change(config.head_lr, math.inf)
    return rates


def _half(rate: float, _: float) -> float:
    return round_to_try(rate / 2)


def _faster(rate: float, highest: float) -> float:
    """The seed's 2e-5 to 5e-5; where that is out of range the rate is probably far too high."""
    return round_to_try(rate * 2.5 if rate * 2.5 <= highest else rate / 10)


def _accuracies(epoch: Epoch, key: str) -> str:
    return (
        f"training accuracy {epoch.train(f'acc_{key}'):.2f}, validation "
        f"{epoch.val(f'acc_{key}'):.2f} in epoch {epoch.number}"
    )
