"""Resolves a config from presets, YAML files and `key=value` arguments, or reports every mistake.

Precedence: schema default < preset < file < command line; nothing else, no environment. A file
names its base preset as `preset: NAME`, or is based on the schema's defaults. Imports nothing
heavy, so that `--help` and mistakes are answered at once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mbti_ray.config.schema import RunConfig
from mbti_ray.config.serve_section import BaseRates
from mbti_ray.config.settings import address_of, settings_of
from mbti_ray.errors import ConfigError, mask_secrets, nearest, one_line
from mbti_ray.typology import DIMENSIONS

_PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS: tuple[str, ...] = tuple(sorted(p.stem for p in _PRESET_FOLDER.glob("*.yaml")))
COMMAND_LINE = "command line"

# The plain nested form of a config, as YAML has it.
Tree = dict[str, Any]
Config = TypeVar("Config", bound=RunConfig)


BASE_RATES = tuple(f"serve.base_rates.{pole}" for pole in BaseRates.model_fields)
ErrorDetail = Mapping[str, Any]
_RANGES = "{low, high, log}, {int_low, int_high} or {choices: [...]}"


def load_run(base: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of one run: `base` is a preset or a YAML file, None the preset `quick`.

    Overrides have the form `optim.lr=3e-5`. A ConfigError has a line for each mistake.
    """
    return load_config(RunConfig, base or "quick", overrides)


def override(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A run config with the values at the given dotted addresses replaced, and validated again.

    A study's config loses its sections `study` and `search`: the result is one run.
    """
    tree = config.model_dump(mode="json", exclude={"study", "search"})
    for address, value in values.items():
        _set_value(tree, address, value)
    return _resolve(RunConfig, tree, "override")


def config_from_dict(tree: Mapping[str, Any]) -> RunConfig:
    """A run config from its plain nested form, in which it is sent between processes."""
    return _resolve(RunConfig, dict(tree), "config")


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML: enough to repeat the run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def apply_overrides(
    config: RunConfig, overrides: Sequence[str], *, allowed: Sequence[str]
) -> RunConfig:
    """A run config with `key=value` arguments applied, of which a command accepts only some.

    Raises ConfigError for an address that is not allowed, or a wrong value.
    """
    for argument in overrides:
        address = argument.partition("=")[0]
        if address not in allowed:
            raise ConfigError(
                f'{COMMAND_LINE}: "{address}" is not accepted here; allowed: {", ".join(allowed)}'
                f"{nearest(address, allowed)}"
            )
    return _resolve(RunConfig, config.model_dump(mode="json"), "bundle", overrides)


def base_rate_overrides(given: str | Mapping[str, float]) -> list[str]:
    """Arguments that set `serve.base_rates`, from `E=0.5,N=0.3` or from a mapping."""
    if isinstance(given, str):
        rates = [part.partition("=")[::2] for part in given.split(",") if part.strip()]
    else:
        rates = [(pole, str(rate)) for pole, rate in given.items()]
    arguments: dict[str, str] = {}
    for pole, rate in rates:
        letter = pole.strip().upper()
        if letter in arguments:
            raise ConfigError(f"base rates: {letter} is given twice")
        if letter not in BaseRates.model_fields:
            others = {d.negative: d.positive for d in DIMENSIONS}
            other = others.get(letter)
            fix = f"as {letter}=0.3 is {other}=0.7" if other else "as in E=0.5,N=0.3"
            raise ConfigError(
                f'base rates: "{pole.strip()}" is not allowed; '
                f"allowed: shares of E, N, T and J, {fix}"
            )
        arguments[letter] = f"serve.base_rates.{letter}={rate.strip()}"
    return [*arguments.values()]


def get_value(config: RunConfig, address: str) -> Any:
    """The value at a dotted address."""
    return attrgetter(address)(config)


def load_config(schema: type[Config], base: str, overrides: Sequence[str]) -> Config:
    """As `load_run`, for the given config class."""
    return _resolve(schema, *read_base(base), overrides)


def _resolve(
    schema: type[Config], tree: Tree, origin: str, overrides: Sequence[str] = ()
) -> Config:
    """The config in a tree from an origin (a preset, a file), with arguments applied to it."""
    given: list[str] = []
    mistakes: list[str] = []
    for argument in overrides:
        address, equals, text = argument.partition("=")
        if not equals or not address:
            mistakes.append(
                f'{COMMAND_LINE}: "{argument}" is neither a preset, a file nor key=value; '
                f"presets: {', '.join(PRESETS)}{nearest(argument, PRESETS)}"
            )
            continue
        given.append(address)
        try:
            _set_value(tree, address, _parse_value(text))
        except (ConfigError, yaml.YAMLError) as error:
            mistakes.append(f'{COMMAND_LINE}: "{argument}": {one_line(error)}')
    try:
        config = schema.model_validate(tree)
    except ValidationError as error:
        for address, message in describe_errors(error, schema, given=given):
            is_given = any(_is_about(address, message, other) for other in given)
            mistakes.append(f"{COMMAND_LINE if is_given else origin}: {message}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return config


def _is_about(address: str, message: str, given: str) -> bool:
    """Whether an error is about the value that was given at an address."""
    if not address:  # an error about several values, which its message names
        return given in message
    return f"{address}.".startswith(f"{given}.") or given.startswith(f"{address}.")


def read_base(base: str) -> tuple[Tree, str]:
    """The plain form of a preset or file, and what messages call it."""
    if base in PRESETS:
        return _read_yaml(_PRESET_FOLDER / f"{base}.yaml"), f"preset {base}"
    path = Path(base)
    if path.suffix not in (".yaml", ".yml"):
        hint = f"; did you mean data.source={base}?" if path.suffix else nearest(base, PRESETS)
        raise ConfigError(
            f'{COMMAND_LINE}: "{base}" is neither a preset nor a .yaml file; '
            f"presets: {', '.join(PRESETS)}{hint}"
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
    return _merge(_read_yaml(_PRESET_FOLDER / f"{preset}.yaml"), tree), base


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; presets: {', '.join(PRESETS)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: contains a {type(tree).__name__}; allowed: a mapping of settings"
        )
    return tree


def _parse_value(text: str) -> Any:
    """Lists and mappings as YAML, `null` as None, anything else as a string (the schema casts)."""
    if text == "null":
        return None
    return yaml.safe_load(text) if text[:1] in ("[", "{") else text


def _merge(below: Tree, above: Tree) -> Tree:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        both = isinstance(value, dict) and isinstance(under, dict)
        result[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return result


def _set_value(tree: Tree, address: str, value: Any) -> None:
    *sections, leaf = address.split(".")
    if sections and sections[0] == "search":
        sections, leaf = ["search"], address.removeprefix("search.")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            raise ConfigError(f'"{section}" is a value and has no keys')
        tree = below
    # Mappings are merged into a section; a search range is replaced as a whole.
    tree.update({leaf: value} if address.startswith("search") else _merge(tree, {leaf: value}))


def describe_errors(
    error: ValidationError, schema: type[BaseModel], *, given: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """The address and the message of each error, one for each address.

    An unknown section is quoted as it was typed, in one of the `given` addresses.
    """
    allowed = {setting.key: setting.allowed for setting in settings_of(schema)}
    known = list(allowed)
    mistakes: dict[str, ErrorDetail] = {}
    for detail in error.errors(include_url=False):
        address = _address_of(detail, known)
        # A value that fits no member of a union gives one error for each member; the one that a
        # validator of ours raised is the most helpful.
        if address not in mistakes or detail["type"] == "value_error":
            mistakes[address] = detail
    messages = []
    for address, mistake in mistakes.items():
        if address not in known and mistake["type"] == "extra_forbidden":
            whole = next((g for g in given if g.startswith(f"{address}.")), address)
            messages.append((whole, _unknown(whole, known)))
        else:
            is_range = address.startswith("search.")
            is_section = mistake["type"] == "model_type" and not is_range
            hint = _hint(address, known) if is_section else ""
            values = _RANGES if is_range else allowed.get(address)
            messages.append((address, _message(address, mistake, values) + hint))
    return messages


def _address_of(detail: ErrorDetail, known: Sequence[str]) -> str:
    parts = [str(part) for part in detail["loc"]]
    for length in range(len(parts), 0, -1):
        address = ".".join(parts[:length])
        if address in known:
            if address == "search" and len(parts) > length:
                return f"search.{parts[length]}"
            return address
    return ".".join(parts)


def _message(address: str, detail: ErrorDetail, allowed: str | None) -> str:
    reason = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if not address:
        return reason
    if allowed and detail["type"] != "value_error":
        reason = f"allowed: {allowed}"
    shown = mask_secrets(repr(detail["input"]))
    closest = nearest(str(detail["input"]), re.split(", | or ", allowed or ""))
    return f"{address}={shown} is not allowed; {reason}{closest}"


def _unknown(address: str, known: list[str]) -> str:
    section = address.rpartition(".")[0]
    siblings = [k.removeprefix(f"{section}.") for k in known if k.startswith(f"{section}.")]
    if not siblings or not section:
        siblings = sorted({k.split(".")[0] for k in known})
    return f'unknown key "{address}"; allowed here: {", ".join(siblings)}{_hint(address, known)}'


def _hint(address: str, known: list[str]) -> str:
    meant = address_of(address, known)
    return f'; did you mean "{meant}"?' if meant else nearest(address, known)
