"""Messages for wrong configs: where, what was given, what is allowed, the closest name.

Puts pydantic's errors into one line each. Must not know of files or presets.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from mbti_ray.config.settings import address_of, settings_of
from mbti_ray.errors import mask_secrets, nearest

ErrorDetail = Mapping[str, Any]
_RANGES = "{low, high, log}, {int_low, int_high} or {choices: [...]}"


def describe_errors(
    error: ValidationError, schema: type[BaseModel], *, given: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """The address and the message of each error, one for each address.

    Args:
        given: Addresses from the command line, to quote an unknown section as it was typed.
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
