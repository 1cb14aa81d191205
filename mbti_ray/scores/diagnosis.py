"""What the curves of a run say is wrong with it, and what to try.

The seed's section "Troubleshooting", answered from figures instead of by eye: a finding names the
fault, the figures that show it, and settings to try, derived from the present ones by the seed's
own ratios. Knows configs and reported lines; nothing of models, files or where things run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mbti_ray.config import RunConfig
from mbti_ray.scores.curves import LOW_BALANCED, LOW_GAIN, Curves, Epoch
from mbti_ray.scores.findings import Finding, Tries, rounded
from mbti_ray.typology import DIMENSIONS, Dimension

# The seed's "large gap" is 0.95 against 0.65. Half of it counts when the validation loss rises
# too, all of it does by itself.
_GAP = 0.15
_LARGE_GAP = 0.30
# A validation loss moves by a few percent from epoch to epoch with nothing being wrong.
_LOSS_RISE = 0.05
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
    curves = Curves(config, [Epoch(line) for line in history])
    found = [*_skipped_steps(curves), *_long_warmup(curves)]
    if curves.last.is_low():
        return found + (_underfitting(curves) if curves.best.is_low() else _collapse(curves))
    overfitting = _overfitting(curves)
    found += overfitting or _still_improving(curves)
    for dimension in DIMENSIONS:
        found += _of_dimension(curves, dimension, overfits=bool(overfitting))
    return found


def _overfitting(curves: Curves) -> list[Finding]:
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


def _underfitting(curves: Curves) -> list[Finding]:
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
    tries["model.dropout"] = rounded(dropout / 2)
    return [Finding("underfitting", None, evidence, curves.tries(tries))]


def _collapse(curves: Curves) -> list[Finding]:
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
        f"the last epoch, {last.number}, is the best: validation loss went from "
        f"{before.loss:.2f} to {last.loss:.2f}"
    )
    if not is_lower_better:
        evidence += (
            f" and {monitor} from {before.val(monitor):.2f} to {last.val(monitor):.2f} in it"
        )
    tries = curves.tries({"fit.epochs": 2 * curves.config.fit.epochs})
    return [Finding("still improving", None, evidence, tries)]


def _long_warmup(curves: Curves) -> list[Finding]:
    warmup, planned = curves.config.optim.warmup_steps, curves.planned_steps
    if not curves.has_long_warmup:
        return []
    evidence = f"the learning rate rises for {warmup} steps, the run has {planned}"
    tries = curves.tries({"optim.warmup_steps": int(_USUAL_WARMUP * planned)})
    return [Finding("warm-up too long", None, evidence, tries)]


def _skipped_steps(curves: Curves) -> list[Finding]:
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


def _of_dimension(curves: Curves, dimension: Dimension, *, overfits: bool) -> list[Finding]:
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


def _gives_one_pole(epoch: Epoch, dimension: Dimension) -> bool:
    """Whether the poles are uneven and the rarer one is hardly ever given."""
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


def _is_learned_by_heart(epoch: Epoch, key: str) -> bool:
    large = _LARGE_GAP * (1 - epoch.val(f"majority_{key}"))
    return epoch.is_flat(key) and epoch.gain(key) >= LOW_GAIN and epoch.gap(key) > large


def _stuck(curves: Curves, dimension: Dimension) -> list[Finding]:
    """Seed: "One dimension not converging"."""
    best, last, key = curves.best, curves.last, dimension.key
    looks = (best, last)
    moves = any(epoch.gain(key) >= LOW_GAIN or not epoch.is_flat(key) for epoch in looks)
    if moves or len(curves.epochs) < _TREND_EPOCHS:
        return []
    evidence = (
        f"{_accuracies(last, key)}, majority {last.val(f'majority_{key}'):.2f}, balanced accuracy "
        f"{last.val(f'bal_{key}'):.2f}, while another dimension has learned"
    )
    tries = {**_own_weight(curves, dimension), "loss.kind": "focal"}
    return [Finding("dimension does not move", key, evidence, curves.tries(tries))]


def _own_weight(curves: Curves, dimension: Dimension) -> Tries:
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
    weights[DIMENSIONS.index(dimension)] = rounded((1 - positive) / positive)
    return {} if tuple(weights) == present else {"loss.pos_weight": weights}


def _restrained(curves: Curves) -> Tries:
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
    return {a: rounded(v) if isinstance(v, float) else v for a, v in changed.items()}


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
    return rounded(rate / 2)


def _quicker(rate: float, highest: float) -> float:
    """The seed's 2e-5 to 5e-5; where that is beyond all use the rate is likely far too high."""
    return rounded(rate * 2.5 if rate * 2.5 <= highest else rate / 10)


def _accuracies(epoch: Epoch, key: str) -> str:
    return (
        f"training accuracy {epoch.train(f'acc_{key}'):.2f}, validation "
        f"{epoch.val(f'acc_{key}'):.2f} in epoch {epoch.number}"
    )
