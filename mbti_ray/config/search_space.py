"""The search space of a study: loading its config, and validating it before a cluster is used."""

import math
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mbti_ray.config.load import (
    COMMAND_LINE,
    PRESETS,
    get_value,
    load_config,
    load_run,
    override,
    read_base,
)
from mbti_ray.config.schema import RunConfig
from mbti_ray.config.settings import config_addresses
from mbti_ray.config.study import Choices, FloatRange, Range, StudyConfig
from mbti_ray.errors import ConfigError, nearest
from mbti_ray.typology import POSITIVE_POLES

# Not part of what is learned, or fixed for a whole study, whose texts are split and tokenized once.
NOT_SEARCHABLE = (
    *("name", "storage", "seed", "scaling.", "failure.", "serve.", "scoring.", "study.", "search"),
    *("data.", "model.encoder", "model.reader", "model.member", "model.max_tokens"),
    *("model.post_tokens", "model.truncation", "loss.per"),
    *("fit.monitor", "fit.checkpoint_steps", "fit.tracker", "fit.profile", "fit.compile"),
    *("fit.attention", "fit.gradient_checkpointing", "fit.skip_nonfinite"),
)
# What population-based training may change during a trial: nothing that determines a shape.
CHANGEABLE = ("optim.", "model.dropout", "loss.")


def load_study(base: str | None, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a study: as `load_run`, with the sections `study` and `search`."""
    base = base or _quick_study()
    config = load_config(StudyConfig, base, overrides)
    if base in PRESETS and not config.search:
        raise ConfigError(
            f'{COMMAND_LINE}: preset "{base}" searches nothing; did you mean '
            f"tune_configs/{base}.yaml? Or name what to search: "
            "search.optim.lr='{low: 1e-5, high: 1e-3, log: true}'"
        )
    mistakes = [f"{base}: {line}" for line in _mistakes(config)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def load_run_or_study(base: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a run, or of a study if the file or an argument has a section of a study."""
    is_study = any(item.startswith(("study.", "search.")) for item in overrides)
    if base is not None and base not in PRESETS:
        is_study = is_study or not {"study", "search"}.isdisjoint(read_base(base)[0])
    return load_study(base, overrides) if is_study else load_run(base, overrides)


def default_point(config: StudyConfig) -> dict[str, Any] | None:
    """The point of the search space that equals the config without a search.

    None if there is no such point, because a searched value is null in the config.
    """
    point: dict[str, Any] = {}
    for address in topological_order(config.search):
        values = config.search[address]
        if is_active(values, point):
            point[address] = _plain_default(config, address)
            if point[address] is None and not isinstance(values, Choices):
                return None
    return point


def topological_order(search: Mapping[str, Range]) -> list[str]:
    """The searched addresses, each after those that its `when` condition names."""
    try:
        return list(TopologicalSorter({a: v.when for a, v in search.items()}).static_order())
    except CycleError as error:
        raise ConfigError(f"search: conditions are circular: {', '.join(error.args[1])}") from None


def is_active(values: Range, point: Mapping[str, Any]) -> bool:
    """Whether the condition of a range holds at a point."""
    return all(
        address in point
        and point[address] in (allowed if isinstance(allowed, tuple) else (allowed,))
        for address, allowed in values.when.items()
    )


def range_ends(values: Range) -> tuple[Any, ...]:
    """Both ends of a range, or all choices."""
    if isinstance(values, Choices):
        return values.choices
    if isinstance(values, FloatRange):
        return values.low, values.high
    return values.int_low, values.int_high


def can_suggest(values: Range, value: Any) -> bool:
    """Whether a value can be sampled from a range."""
    if isinstance(values, Choices):
        return value in values.choices
    low, high = range_ends(values)
    is_number = isinstance(value, int if not isinstance(values, FloatRange) else int | float)
    return is_number and not isinstance(value, bool) and low <= value <= high


def describe_range(values: Range) -> str:
    """A range in words: `from 0 to 1`, `one of [...]`."""
    if isinstance(values, Choices):
        return f"one of {list(values.choices)}"
    low, high = range_ends(values)
    return f"from {low:g} to {high:g}"


def _quick_study() -> str:
    """tune_configs/quick.yaml: inside an installed package, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "tune_configs" / "quick.yaml"
    return str(inside if inside.exists() else package.parent / "tune_configs" / "quick.yaml")


def _mistakes(config: StudyConfig) -> list[str]:
    """What is wrong in a study: addresses, ranges, conditions, start points, the default point."""
    known = config_addresses(RunConfig)
    searchable = [a for a in known if not a.startswith(NOT_SEARCHABLE)]
    if not config.search:
        return [f"search is empty; name at least one of: {', '.join(searchable)}"]
    lines = []
    for address, values in config.search.items():
        if address not in known:
            lines.append(f'search: unknown key "{address}"{nearest(address, known)}')
        elif address not in searchable:
            lines.append(
                f'search: "{address}" cannot be searched; allowed: {", ".join(searchable)}'
            )
        else:
            found = [*_impossible(config, address, values), *_wrong_condition(config, address)]
            lines += [f"search: {line}" for line in found]
    if lines:
        return lines
    try:
        topological_order(config.search)
    except ConfigError as error:
        return [str(error)]
    lines += [f"search: {line}" for line in _weighed_twice(config)]
    for index, point in enumerate(config.study.start):
        lines += [f"study.start[{index}]: {line}" for line in _outside(config, point)]
    return [*lines, *_default_outside(config), *_unchangeable(config)]


def _impossible(config: RunConfig, address: str, values: Range) -> list[str]:
    """What is wrong with the values of a range, as the schema checks them."""
    lines = []
    for value in range_ends(values):
        try:
            override(config, {address: value})
        except ConfigError as error:
            lines.append(str(error).partition(": ")[2])
    # Between two integers there are numbers that are not integers.
    if not lines and isinstance(values, FloatRange):
        between = values.low + (values.high - values.low) / math.e
        try:
            override(config, {address: between})
        except ConfigError:
            lines.append(f"{address} takes integers; write {{int_low: ..., int_high: ...}}")
    return lines


def _weighed_twice(config: StudyConfig) -> Iterator[str]:
    """Poles whose power and weight would both be set in all trials, which the schema refuses."""
    for pole in POSITIVE_POLES:
        both = [f"loss.power.{pole}", f"loss.weight.{pole}"]
        if all(address in config.search and not config.search[address].when for address in both):
            yield f"{both[0]} and {both[1]} cannot both be searched"


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
                yield f"{address}: when: {parent}={value} is never sampled; it is {words}"


def _outside(config: StudyConfig, point: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a start point: it needs a value in range for every searched address."""
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
    """Addresses whose value in the config is outside of their range."""
    point = default_point(config) or {}
    if not config.study.try_default:
        return
    for address, value in point.items():
        if not can_suggest(config.search[address], value):
            yield (
                f"search: {address}={value} in the config, which is the first trial, is not "
                f"{describe_range(config.search[address])}; change one of them, or set "
                "study.try_default=false"
            )


def _unchangeable(config: StudyConfig) -> Iterator[str]:
    if config.study.scheduler != "pbt":
        return
    for address, values in config.search.items():
        if not address.startswith(CHANGEABLE) or values.when:
            yield (
                f"search: {address} cannot change during a trial, as study.scheduler=pbt "
                f"requires; allowed: {', '.join(f'{a}*' for a in CHANGEABLE)}, without a when"
            )


def _plain_default(config: StudyConfig, address: str) -> Any:
    """The config's value as a number of the range, where the config has null or a word for it."""
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
        return config.head_lr
    return value
