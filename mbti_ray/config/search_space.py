"""Studies: their config, and whether what they search can be searched, before a cluster is asked.

Knows the schema and how values are put into a config; nothing of Optuna.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbti_ray.config.error_messages import config_addresses
from mbti_ray.config.load import get_value, load_config, override
from mbti_ray.config.schema import RunConfig
from mbti_ray.config.study import Choices, FloatRange, Range, StudyConfig
from mbti_ray.errors import ConfigError, nearest

# Not part of what is learned, or fixed once for a study because its texts are tokenised once.
NOT_SEARCHABLE = (
    "name",
    "storage",
    "scaling.",
    "failure.",
    "serve.",
    "scoring.",
    "study.",
    "search",
    "data.",
    "model.encoder",
    "model.max_tokens",
    "fit.monitor",
    "fit.checkpoint_steps",
    "fit.tracker",
    "fit.profile",
    "fit.compile",
    "fit.attention",
    "fit.gradient_checkpointing",
    "fit.skip_nonfinite",
)
# What population-based training may change while a trial trains: nothing that has a shape.
CHANGEABLE = ("optim.", "model.dropout", "loss.")


def load_study(base: str | None, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a study: as `load_run`, with the sections `study` and `search`.

    Raises:
        ConfigError: With one line for each mistake found, all at once.
    """
    base = base or _quick_study()
    config = load_config(StudyConfig, base, overrides)
    mistakes = [f"{base}: {said}" for said in _mistakes(config)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def default_point(config: StudyConfig) -> dict[str, Any] | None:
    """The point of the search at which a trial is the config without a search.

    None where there is no such point, since a searched value is null there.
    """
    point: dict[str, Any] = {}
    for address in parents_first(config.search):
        values = config.search[address]
        if is_active(values, point):
            point[address] = _plain_default(config, address)
            if point[address] is None and not isinstance(values, Choices):
                return None
    return point


def parents_first(search: Mapping[str, Range]) -> list[str]:
    """The searched addresses, each after those that its condition names."""
    ordered: list[str] = []
    rest = list(search)
    while rest:
        ready = [a for a in rest if all(p in ordered for p in search[a].when)]
        if not ready:
            raise ConfigError(f"search: conditions go in a circle: {', '.join(rest)}")
        ordered += ready
        rest = [a for a in rest if a not in ready]
    return ordered


def is_active(values: Range, point: Mapping[str, Any]) -> bool:
    """Whether a range is searched, given the values of what its condition names."""
    return all(
        address in point
        and point[address] in (allowed if isinstance(allowed, tuple) else (allowed,))
        for address, allowed in values.when.items()
    )


def range_ends(values: Range) -> tuple[Any, ...]:
    """Both ends of a range, or all its choices."""
    if isinstance(values, Choices):
        return values.choices
    if isinstance(values, FloatRange):
        return values.low, values.high
    return values.int_low, values.int_high


def can_suggest(values: Range, value: Any) -> bool:
    """Whether a value is one that the range can suggest."""
    if isinstance(values, Choices):
        return value in values.choices
    low, high = range_ends(values)
    is_number = isinstance(value, int if not isinstance(values, FloatRange) else int | float)
    return is_number and not isinstance(value, bool) and low <= value <= high


def describe_range(values: Range) -> str:
    """A range in words."""
    if isinstance(values, Choices):
        return f"one of {list(values.choices)}"
    low, high = range_ends(values)
    return f"from {low:g} to {high:g}"


def _quick_study() -> str:
    """tune_configs/quick.yaml: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "tune_configs" / "quick.yaml"
    return str(inside if inside.exists() else package.parent / "tune_configs" / "quick.yaml")


def _mistakes(config: StudyConfig) -> list[str]:
    """What is wrong with a search: addresses, ends, conditions, points to start from, default."""
    known = config_addresses(RunConfig)
    searchable = [a for a in known if not a.startswith(NOT_SEARCHABLE)]
    if not config.search:
        return [f"search is empty; name at least one of: {', '.join(searchable)}"]
    said = []
    for address, values in config.search.items():
        if address not in known:
            said.append(f'search: unknown key "{address}"{nearest(address, known)}')
        elif address not in searchable:
            said.append(f'search: "{address}" cannot be searched; allowed: {", ".join(searchable)}')
        else:
            found = [*_impossible(config, address, values), *_wrong_condition(config, address)]
            said += [f"search: {line}" for line in found]
    if said:
        return said
    try:
        parents_first(config.search)
    except ConfigError as error:
        return [str(error)]
    for place, point in enumerate(config.study.start):
        said += [f"study.start[{place}]: {line}" for line in _outside(config, point)]
    return [*said, *_default_outside(config), *_unchangeable(config)]


def _impossible(config: RunConfig, address: str, values: Range) -> list[str]:
    """What is wrong with the values that a range can suggest."""
    said = []
    for value in range_ends(values):
        try:
            override(config, {address: value})
        except ConfigError as error:
            said.append(str(error).partition(": ")[2])
    # Between two whole ends lie numbers that are not whole.
    if not said and isinstance(values, FloatRange):
        between = values.low + (values.high - values.low) / math.e
        try:
            override(config, {address: between})
        except ConfigError:
            said.append(f"{address} takes whole numbers; write {{int_low: ..., int_high: ...}}")
    return said


def _wrong_condition(config: StudyConfig, address: str) -> Iterator[str]:
    for parent, allowed in config.search[address].when.items():
        if parent not in config.search:
            yield (
                f'{address}: when: "{parent}" is not searched; allowed: '
                f"{', '.join(config.search)}{nearest(parent, config.search)}"
            )
            continue
        for value in allowed if isinstance(allowed, tuple) else (allowed,):
            if not can_suggest(config.search[parent], value):
                words = describe_range(config.search[parent])
                yield f"{address}: when: {parent}={value} never is; it is {words}"


def _outside(config: StudyConfig, point: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a point to start from: it needs a value in range for what is searched."""
    for address in point:
        if address not in config.search:
            yield f'"{address}" is not searched; allowed: {", ".join(config.search)}'
    for address, values in config.search.items():
        if not is_active(values, point):
            if address in point:
                yield f"{address} is searched only when {values.when}"
        elif address not in point:
            yield f'has no value for "{address}"'
        elif not can_suggest(values, point[address]):
            yield f"{address}={point[address]} is not {describe_range(values)}"


def _default_outside(config: StudyConfig) -> Iterator[str]:
    """Addresses whose value without a search the search cannot suggest."""
    point = default_point(config) or {}
    if not config.study.try_default:
        return
    for address, value in point.items():
        if not can_suggest(config.search[address], value):
            yield (
                f"search: {address}={value} in the config itself, which is the first trial, is not "
                f"{describe_range(config.search[address])}; change one of them, or set "
                "study.try_default=false"
            )


def _unchangeable(config: StudyConfig) -> Iterator[str]:
    if config.study.scheduler != "pbt":
        return
    for address, values in config.search.items():
        if not address.startswith(CHANGEABLE) or values.when:
            yield (
                f"search: {address} cannot change while a trial trains, as study.scheduler=pbt "
                f"wants it to; allowed: {', '.join(f'{a}*' for a in CHANGEABLE)}, without a when"
            )


def _plain_default(config: StudyConfig, address: str) -> Any:
    """The config's own value, in the terms of the search where null or a word stands for it."""
    value = get_value(config, address)
    if isinstance(config.search[address], Choices):
        return value
    powers = {"none": 0.0, "balanced": 1.0}
    common = config.loss.pos_weight
    power = powers[common] if isinstance(common, str) else common
    if address == "loss.pos_weight" or (address.startswith("loss.power.") and value is None):
        return None if isinstance(power, tuple) else power
    if address.startswith("loss.weight.") and value is None:
        return 1.0 if power == 0 else None
    if address == "optim.head_lr" and value is None:
        return config.optim.lr
    return value
