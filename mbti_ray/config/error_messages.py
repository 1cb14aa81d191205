"""Messages for wrong configs: where, what was given, what is allowed, the closest name.

Translates pydantic's errors with the help of the schema. Must not know of files or presets.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mbti_ray.errors import mask_secrets, nearest

ErrorDetail = Mapping[str, Any]


def config_addresses(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All dotted addresses of a config class, in the order of the schema."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += config_addresses(field.annotation, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def describe_errors(
    error: ValidationError, schema: type[BaseModel], *, given: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """The address and the message of each error, one for each address.

    Args:
        given: Addresses from the command line, to quote an unknown section as it was typed.
    """
    known = config_addresses(schema)
    mistakes: dict[str, ErrorDetail] = {}
    details: list[ErrorDetail] = [*error.errors(include_url=False)]
    for detail in details:
        address = _address_of(detail, known)
        # A value that fits no member of a union gives one error for each member; the one that a
        # validator of ours raised is the most helpful.
        if address not in mistakes or detail["type"] == "value_error":
            mistakes[address] = detail
    messages = []
    for address, mistake in mistakes.items():
        whole = next((g for g in given if g.startswith(f"{address}.")), address)
        quoted = whole if mistake["type"] == "extra_forbidden" else address
        messages.append((quoted, _message(mistake, quoted, schema, known)))
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


def _message(detail: ErrorDetail, address: str, schema: type[BaseModel], known: list[str]) -> str:
    if detail["type"] == "extra_forbidden" and address not in known:
        return _unknown(address, known)
    reason = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if not address:
        return reason
    allowed = _allowed(schema, address)
    if allowed and detail["type"] != "value_error":
        reason = f"allowed: {allowed}"
    value = detail["input"]
    shown = mask_secrets(repr(value))
    return f"{address}={shown} is not allowed; {reason}{_nearest_literal(value, schema, address)}"


def _unknown(address: str, known: list[str]) -> str:
    section, _, leaf = address.rpartition(".")
    siblings = [k.removeprefix(f"{section}.") for k in known if k.startswith(f"{section}.")]
    if not siblings or not section:
        siblings = sorted({k.split(".")[0] for k in known})
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    hint = f'; did you mean "{same_leaf[0]}"?' if same_leaf else nearest(address, known)
    return f'unknown key "{address}"; allowed here: {", ".join(siblings)}{hint}'


def _annotation(schema: type[BaseModel], address: str) -> tuple[Any, Sequence[Any]]:
    """The annotation of a setting and the constraints declared with it."""
    *sections, leaf = address.split(".")
    model: Any = schema
    for section in sections:
        field = model.model_fields.get(section)
        model = field.annotation if field else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return None, ()
    field = model.model_fields.get(leaf)
    return (field.annotation, field.metadata) if field else (None, ())


def _allowed(schema: type[BaseModel], address: str) -> str:
    if address.startswith("search."):
        return "{low, high, log}, {int_low, int_high} or {choices: [...]}"
    return _describe(*_annotation(schema, address))


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true, false"}
_BOUNDS = {
    **{"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "pattern": "matching"},
    "max_length": "no longer than",
}


def _describe(annotation: Any, constraints: Sequence[Any]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _describe(inner, [*constraints, *more])
    if origin is Literal:
        return ", ".join(str(value) for value in get_args(annotation))
    if origin in (Union, UnionType):
        return ", ".join(_describe(member, constraints) for member in get_args(annotation))
    if origin is tuple:
        return f"{len(get_args(annotation))} numbers"
    if annotation is NoneType:
        return "null"
    bounds = [
        f"{word} {getattr(c, name)}"
        for constraint in constraints
        for c in (constraint, *getattr(constraint, "metadata", ()))
        for name, word in _BOUNDS.items()
        if getattr(c, name, None) is not None
    ]
    return " ".join([_TYPE_NAMES.get(annotation, ""), " and ".join(bounds)]).strip()


def _nearest_literal(given: Any, schema: type[BaseModel], address: str) -> str:
    annotation, _ = _annotation(schema, address)
    values: list[str] = []
    queue = [annotation]
    while queue:
        item = queue.pop()
        if get_origin(item) is Literal:
            values += [str(value) for value in get_args(item)]
        else:
            queue += get_args(item)
    return nearest(str(given), values)
