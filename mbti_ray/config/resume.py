"""Which settings may change when a run or study resumes: where and how long, not what it learns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mbti_ray.config.load import load_run
from mbti_ray.config.schema import RunConfig
from mbti_ray.config.study import StudyConfig
from mbti_ray.errors import RunError

Config = TypeVar("Config", bound=RunConfig)

_MAY_CHANGE = (
    *("name", "storage", "scaling.", "failure.", "serve.", "scoring.", "fit.tracker"),
    *("fit.profile", "study.trials", "study.hours", "study.max_concurrent", "study.start"),
)


def load_resumed(
    load: Callable[[str | None, Sequence[str]], Config],
    saved: Path,
    base: str | None,
    overrides: Sequence[str],
) -> Config:
    """The saved config of a run or study with the changes of the command line, if allowed.

    A run without folds may train for more epochs than before; see `describe_schedule_change`.
    `base` is the preset or file on the command line, which must be the one that it started with.
    A RunError lists every difference that would make it another run.
    """
    before, after = load(str(saved), ()), load(base or str(saved), overrides)
    # Neither do trials, nor folds that are finished, train on.
    is_one_run = not (isinstance(after, StudyConfig) or after.data.trains_on_all)
    is_longer = is_one_run and after.fit.epochs > before.fit.epochs
    old, new = flatten(before.model_dump()), flatten(after.model_dump())
    changes = {
        address: f"{address}: {old.get(address)!r} -> {new.get(address)!r}"
        for address in {**old, **new}
        if old.get(address) != new.get(address) and not address.startswith(_MAY_CHANGE)
    }
    if changes.keys() - ({"fit.epochs"} if is_longer else set()):
        raise RunError(
            f"{saved.parent}: --resume needs the config that it started with; different here: "
            f"{'; '.join(changes.values())}; leave that out, or use another name"
        )
    return after


def describe_schedule_change(saved: Path, after: RunConfig) -> str | None:
    """What more epochs mean for a run that resumes; None where it has as many as before."""
    before = load_run(str(saved)).fit.epochs
    if after.fit.epochs == before:
        return None
    return (
        f"fit.epochs: {before} -> {after.fit.epochs}; the learning rate now falls to 0 over "
        f"{after.fit.epochs} epochs, so the run differs from one that was started with as many"
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a nested mapping by its dotted address."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
