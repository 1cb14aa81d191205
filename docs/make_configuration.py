"""Writes docs/configuration.md from the typed schema: `python docs/make_configuration.py`.

tests/contracts/test_configuration_page.py fails when the page and the schema differ.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mbti_ray.config import StudyConfig

PAGE = Path(__file__).with_name("configuration.md")
_HEAD = """# Configuration

```sh
python -m mbti_ray.train minilm optim.lr=3e-5 fit.epochs=3 data.source=my.csv
```

Every setting is a dotted key, the same on the command line, in YAML files and under a study's
`search:`. Precedence: schema default < preset < file < command line; the environment has no say.
This page is written from the schema by `python docs/make_configuration.py`.
"""
_TAIL = """
## What can go wrong

- An unknown key or a value that is not allowed: every mistake is reported at once, each with what
  is allowed and the nearest right name; exit code 2, nothing has been started.
- `scaling.*` inside `search:` is refused: the shape of the cluster is not a hyperparameter.
"""


def page() -> str:
    """The page as Markdown: one table for each section of the schema."""
    lines = [_HEAD]
    own = [row for row in _rows(StudyConfig, "") if "." not in row[0]]
    lines += _table("Top level", own)
    for name, field in StudyConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += _table(f"`{name}`: {_summary(section)}", list(_rows(section, f"{name}.")))
    return "\n".join(lines) + _TAIL


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, allowed values, default and meaning of each setting below a section."""
    properties = model.model_json_schema().get("properties", {})
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if prefix:
                yield from _rows(field.annotation, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        yield (
            f"{prefix}{name}",
            _allowed(properties[name]),
            _plain(default),
            field.description or "",
        )


def _allowed(schema: dict[str, Any]) -> str:
    """The values that a JSON schema lets through, in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_allowed(part) for part in schema["anyOf"]))
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    kind = str(schema.get("type", "a mapping"))
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return f"list of {_allowed(items[0])}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _SIGNS.items() if key in schema]
    return " ".join([_KINDS.get(kind, kind), ", ".join(bounds)]).strip()


_SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_KINDS = {"string": "text", "boolean": "true, false", "null": "null", "object": "a mapping"}


def _plain(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _summary(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0].rstrip(".").lower()


def _table(heading: str, rows: list[tuple[str, str, str, str]]) -> list[str]:
    cells = [" | ".join(_cell(part) for part in row[1:]) for row in rows]
    body = [f"| `{row[0]}` | {rest} |" for row, rest in zip(rows, cells, strict=True)]
    return [
        f"\n## {heading}\n",
        "| key | allowed | default | meaning |",
        "|---|---|---|---|",
        *body,
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
