"""Messages for wrong configs: where, what was given, what is allowed, the closest name.

Puts pydantic's errors into one line each. Must not know of files or presets.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mbti_ray.config.settings import address_of, config_addresses
from mbti_ray.errors import mask_secrets, nearest

ErrorDetail = Mapping[str, Any]
# Where pydantic's words are not those of a YAML file or a command line.
_WORDS = {
    "bool_parsing": "true or false",
    "missing": "more values",
    "model_type": "a mapping of settings",
    "tuple_type": "a list",
}
_RANGES = "{low, high, log}, {int_low, int_high} or {choices: [...]}"


def describe_errors(
    error: ValidationError, schema: type[BaseModel], *, given: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """The address and the message of each error, one for each address.

    Args:
        given: Addresses from the command line, to quote an unknown section as it was typed.
    """
    known = config_addresses(schema)
    mistakes: dict[str, list[ErrorDetail]] = {}
    # A value that fits no member of a union gives one error for each member.
    for detail in error.errors(include_url=False):
        mistakes.setdefault(_address_of(detail, known), []).append(detail)
    messages = []
    for address, details in mistakes.items():
        if address not in known and details[0]["type"] == "extra_forbidden":
            whole = next((g for g in given if g.startswith(f"{address}.")), address)
            messages.append((whole, _unknown(whole, known)))
        else:
            is_section = details[0]["type"] == "model_type"
            hint = _hint(address, known) if is_section else ""
            messages.append((address, _message(address, details) + hint))
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


def _message(address: str, details: Sequence[ErrorDetail]) -> str:
    own = [d["msg"].removeprefix("Value error, ") for d in details if d["type"] == "value_error"]
    reason = own[0] if own else f"allowed: {'; or '.join(dict.fromkeys(map(_words, details)))}"
    if not address:
        return reason
    if address.startswith("search.") and not own:
        reason = f"allowed: {_RANGES}"
    given = details[0]["input"]
    names = re.findall(r"'(.+?)'", " ".join(d.get("ctx", {}).get("expected", "") for d in details))
    shown = mask_secrets(repr(given))
    return f"{address}={shown} is not allowed; {reason}{nearest(str(given), names)}"


def _words(detail: ErrorDetail) -> str:
    """`a valid number` of "Input should be a valid number, unable to parse string as a number"."""
    words = _WORDS.get(detail["type"]) or detail["msg"].partition(", unable")[0]
    return words.removeprefix("Input should be ").replace("String should match", "a text of the")


def _unknown(address: str, known: list[str]) -> str:
    section = address.rpartition(".")[0]
    siblings = [k.removeprefix(f"{section}.") for k in known if k.startswith(f"{section}.")]
    if not siblings or not section:
        siblings = sorted({k.split(".")[0] for k in known})
    return f'unknown key "{address}"; allowed here: {", ".join(siblings)}{_hint(address, known)}'


def _hint(address: str, known: list[str]) -> str:
    meant = address_of(address, known)
    return f'; did you mean "{meant}"?' if meant else nearest(address, known)
