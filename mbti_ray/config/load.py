"""From presets, YAML files and `key=value` arguments to a resolved config, or to every mistake.

Precedence: schema default < preset < file < command line; nothing else, no environment. A file
names the preset that it starts from as `preset: NAME`, or starts from the schema's defaults.
Imports nothing heavy, so that `--help` and mistakes are answered at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mbti_ray.config.explain import addresses, explain_all
from mbti_ray.config.schema import Choices, FloatRange, Range, RunConfig, StudyConfig
from mbti_ray.errors import ConfigError, nearest

_PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS: tuple[str, ...] = tuple(sorted(p.stem for p in _PRESET_FOLDER.glob("*.yaml")))
COMMAND_LINE = "command line"
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
    "fit.gradient_checkpointing",
    "fit.skip_nonfinite",
)

Tree = dict[str, Any]
Config = TypeVar("Config", bound=RunConfig)


def load_run(base: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of one run.

    Args:
        base: A preset's name, or a YAML file; None is the preset `quick`.
        overrides: Arguments of the form `optim.lr=3e-5`.

    Raises:
        ConfigError: With one line for each mistake found, all at once.
    """
    return _load(RunConfig, base or "quick", overrides)


def load_study(base: str | None, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a study: as `load_run`, with the sections `study` and `search`."""
    base = base or _quick_study()
    config = _load(StudyConfig, base, overrides)
    _check_search(config, where=base)
    return config


def overridden(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A run config with the given dotted addresses replaced, checked again.

    A study's config loses its `study` and `search` sections: the result is one run.
    """
    tree = config.model_dump(mode="json", exclude={"study", "search"})
    for address, value in values.items():
        _put(tree, address, value)
    return _validated(RunConfig, tree, dict.fromkeys(values, "override"), "config")


def config_of(tree: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """A run config from its plain nested form, as it travels between processes."""
    return _validated(RunConfig, dict(tree), {}, where)


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML, enough to repeat the run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_overrides(
    config: RunConfig, overrides: Sequence[str], *, allowed: Sequence[str]
) -> RunConfig:
    """A run config with those `key=value` arguments applied that a command allows.

    Raises:
        ConfigError: An address is not allowed, or a value is wrong.
    """
    for argument in overrides:
        address = argument.partition("=")[0]
        if address not in allowed:
            raise ConfigError(
                f'{COMMAND_LINE}: "{address}" has no meaning here; allowed: {", ".join(allowed)}'
                f"{nearest(address, allowed)}"
            )
    tree: Tree = config.model_dump(mode="json")
    origins: dict[str, str] = {}
    mistakes: list[str] = []
    _apply(tree, overrides, origins, mistakes)
    return _validated(RunConfig, tree, origins, "bundle", mistakes)


def value_at(config: RunConfig, address: str) -> Any:
    """The value at a dotted address."""
    value: Any = config
    for part in address.split("."):
        value = getattr(value, part)
    return value


def _load(kind: type[Config], base: str, overrides: Sequence[str]) -> Config:
    tree, origin = _read_base(base)
    origins: dict[str, str] = {}
    mistakes: list[str] = []
    _apply(tree, overrides, origins, mistakes)
    return _validated(kind, tree, origins, origin, mistakes)


def _apply(
    tree: Tree, overrides: Sequence[str], origins: dict[str, str], mistakes: list[str]
) -> None:
    for argument in overrides:
        address, equals, text = argument.partition("=")
        if not equals or not address:
            mistakes.append(
                f'{COMMAND_LINE}: "{argument}" is neither a preset, a file nor key=value; '
                f"presets: {', '.join(PRESETS)}{nearest(argument, PRESETS)}"
            )
            continue
        origins[address] = COMMAND_LINE
        try:
            _put(tree, address, _parse_value(text))
        except (ConfigError, yaml.YAMLError) as error:
            mistakes.append(f'{COMMAND_LINE}: "{argument}": {_one_line(error)}')


def _quick_study() -> str:
    """tune_configs/quick.yaml: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "tune_configs" / "quick.yaml"
    return str(inside if inside.exists() else package.parent / "tune_configs" / "quick.yaml")


def _origin(address: str, sentence: str, origins: Mapping[str, str]) -> str | None:
    """Where the value came from that a mistake is about, if it was not the preset or file."""
    for given, origin in origins.items():
        related = f"{address}.".startswith(f"{given}.") or given.startswith(f"{address}.")
        # A mistake between several values has no address; its sentence names them.
        if (address and related) or (not address and given in sentence):
            return origin
    return None


def _read_base(base: str) -> tuple[Tree, str]:
    if base in PRESETS:
        return _read_yaml(_PRESET_FOLDER / f"{base}.yaml"), f"preset {base}"
    path = Path(base)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f'{COMMAND_LINE}: "{base}" is neither a preset nor a .yaml file; '
            f"presets: {', '.join(PRESETS)}{nearest(base, PRESETS)}"
        )
    tree = _read_yaml(path)
    preset = tree.pop("preset", None)
    if preset is None:
        return tree, base
    if preset not in PRESETS:
        raise ConfigError(
            f'{base}: preset "{preset}" does not exist; allowed: {", ".join(PRESETS)}'
            f"{nearest(str(preset), PRESETS)}"
        )
    return _merged(_read_yaml(_PRESET_FOLDER / f"{preset}.yaml"), tree), base


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; presets: {', '.join(PRESETS)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}; a mapping of settings is needed")
    return tree


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parse_value(text: str) -> Any:
    """Lists and mappings as YAML, `null` as None, any other text as it is (the schema casts)."""
    if text == "null":
        return None
    return yaml.safe_load(text) if text[:1] in ("[", "{") else text


def _merged(below: Tree, above: Tree) -> Tree:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        result[key] = _merged(under, value) if both else value  # type: ignore[arg-type]
    return result


def _put(tree: Tree, address: str, value: Any) -> None:
    *sections, leaf = address.split(".")
    if sections and sections[0] == "search":
        sections, leaf = ["search"], address.removeprefix("search.")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f'"{section}" is a value, it has no key below it')
        tree = below
    under = tree.get(leaf)
    # A section takes what is given; a searched range is given whole.
    both = isinstance(value, dict) and isinstance(under, dict) and not address.startswith("search")
    tree[leaf] = _merged(under, value) if both else value  # type: ignore[arg-type]


def _validated(
    kind: type[Config],
    tree: Tree,
    origins: Mapping[str, str],
    default_origin: str,
    mistakes: Iterable[str] = (),
) -> Config:
    lines = list(mistakes)
    config = None
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        mistakes_found = explain_all(error, kind, given=origins)
        for address, sentence in mistakes_found:
            lines.append(f"{_origin(address, sentence, origins) or default_origin}: {sentence}")
    if lines or config is None:
        raise ConfigError("\n".join(lines))
    return config


def _check_search(config: StudyConfig, *, where: str) -> None:
    """Every searched address exists, may be searched, and every end of its range is valid."""
    known = addresses(RunConfig)
    searchable = [a for a in known if not a.startswith(NOT_SEARCHABLE)]
    mistakes: list[str] = []
    if not config.search:
        mistakes.append(f"{where}: search is empty; name at least one of: {', '.join(searchable)}")
    for address, values in config.search.items():
        if address not in known:
            mistakes.append(f'{where}: search: unknown key "{address}"{nearest(address, known)}')
        elif address not in searchable:
            mistakes.append(
                f'{where}: search: "{address}" cannot be searched; allowed: {", ".join(searchable)}'
            )
        else:
            mistakes += [
                f"{where}: search: {said}" for said in _impossible(config, address, values)
            ]
    for place, point in enumerate(config.study.start):
        mistakes += [f"{where}: study.start[{place}]: {said}" for said in _outside(config, point)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _outside(config: StudyConfig, point: Mapping[str, Any]) -> list[str]:
    """What is wrong with a point to start from: it needs a value in range for what is searched."""
    said = [
        f'"{address}" is not searched; allowed: {", ".join(config.search)}'
        for address in point
        if address not in config.search
    ]
    for address, values in config.search.items():
        if address not in point:
            said.append(f'has no value for "{address}"')
        elif isinstance(values, Choices):
            if point[address] not in values.choices:
                said.append(f"{address}={point[address]} is none of {list(values.choices)}")
        else:
            low, high = _ends(values)
            value = point[address]
            if not isinstance(value, int | float) or not low <= value <= high:
                said.append(f"{address}={value} is not from {low:g} to {high:g}")
    return said


def _impossible(config: RunConfig, address: str, values: Range) -> list[str]:
    """What is wrong with the values that a range can suggest."""
    said = []
    for value in _ends(values):
        try:
            overridden(config, {address: value})
        except ConfigError as error:
            said.append(str(error).partition(": ")[2])
    # Between two whole ends lie numbers that are not whole.
    if not said and isinstance(values, FloatRange):
        between = values.low + (values.high - values.low) / math.e
        try:
            overridden(config, {address: between})
        except ConfigError:
            said.append(f"{address} takes whole numbers; write {{int_low: ..., int_high: ...}}")
    return said


def _ends(values: Range) -> tuple[Any, ...]:
    if isinstance(values, Choices):
        return values.choices
    if isinstance(values, FloatRange):
        return values.low, values.high
    return values.int_low, values.int_high
