"""Writes docs/configuration.md from the typed schema: `python docs/make_configuration.py`.

tests/contracts/test_configuration_page.py fails when the page and the schema differ.
"""

from pathlib import Path

from pydantic import BaseModel

from mbti_ray.config import StudyConfig
from mbti_ray.config.settings import Setting, settings_of

PAGE = Path(__file__).with_name("configuration.md")
_HEAD = """# Configuration

```sh
python -m mbti_ray.train minilm optim.lr=3e-5 fit.epochs=3 data.source=my.csv
```

Every setting is a dotted key, the same on the command line, in YAML files and under a study's
`search:`; `mbti-ray config` prints them with the values of a preset or file. Precedence: schema
default < preset < file < command line; the environment has no say.
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
    settings = settings_of(StudyConfig)
    lines += _table("Top level", [s for s in settings if "." not in s.key])
    for name, field in StudyConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            inside = [s for s in settings if s.key.startswith(f"{name}.")]
            lines += _table(f"`{name}`: {_summary(section)}", inside)
    return "\n".join(lines) + _TAIL


def _summary(section: type[BaseModel]) -> str:
    text = (section.__doc__ or "").strip().splitlines()[0].rstrip(".")
    first = text.partition(" ")[0]
    # Not of names such as AdamW.
    return first.lower() + text[len(first) :] if first == first.capitalize() else text


def _table(heading: str, settings: list[Setting]) -> list[str]:
    return [
        f"\n## {heading}\n",
        "| key | allowed | default | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{s.key}` | {_cell(s.allowed)} | {_cell(s.default)} | {_cell(s.meaning)} |"
            for s in settings
        ),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
