"""The HTML skeleton of every page: one file, no network, no script, light and dark, any width.

Owns the style sheet and the escaping. Must not know what a page shows.
"""

from collections.abc import Iterable, Sequence
from html import escape as _escape
from pathlib import Path

from mbti_ray.errors import ConfigError, nearest
from mbti_ray.storage.atomic import write_text

_ENDINGS = (".html",)


class Html(str):
    """Text that is HTML already; any other string is escaped where it is inserted."""

    __slots__ = ()


def escape(text: str) -> Html:
    """The text as HTML; `Html` stays as it is."""
    return text if isinstance(text, Html) else Html(_escape(text))


def page(title: str, parts: Iterable[Html]) -> str:
    """The whole page; its Content-Security-Policy forbids loading anything."""
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f'<title>{name}</title><link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{name}</h1>\n"
        f"{_lines(parts)}\n</main></body></html>\n"
    )


def section(heading: str, *parts: Html) -> Html:
    """A heading with its contents."""
    return Html(f"<section><h2>{escape(heading)}</h2>\n{_lines(parts)}</section>")


def paragraph(text: str) -> Html:
    return Html(f"<p>{escape(text)}</p>")


def warning(text: str) -> Html:
    """A highlighted paragraph."""
    return Html(f'<p class="warning" role="note"><strong>Careful:</strong> {escape(text)}</p>')


def bullets(items: Iterable[str]) -> Html:
    return Html("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Rows that each start with a name; `header` names the other columns, or is empty.

    A wide table scrolls on its own, so that the page keeps its width on a phone.
    """
    head = "".join(f'<th scope="col">{_unbroken(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{_unbroken(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    thead = f"<thead><tr><td></td>{head}</tr></thead>" if any(header) else ""
    return Html(f'<div class="wide"><table>{thead}<tbody>\n{body}</tbody></table></div>')


def _unbroken(cell: str) -> str:
    """The cell as HTML, without a line break between a number and its unit."""
    return escape(cell).replace(" %", "\N{NO-BREAK SPACE}%")


def figure(caption: str, chart: Html) -> Html:
    return Html(f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>")


def side_by_side(figures: Iterable[Html], *, is_small: bool = False) -> Html:
    """Charts in as many columns as fit on the reader's screen."""
    return Html(f'<div class="panels{" small" * is_small}">{"".join(figures)}</div>')


def check_page_path(path: Path, *, option: str = "--output") -> None:
    """Raise ConfigError unless a page can be written there, before any work is done."""
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f'{option} {path}: unknown extension "{path.suffix}"; allowed: '
            f"{', '.join(_ENDINGS)}{nearest(path.suffix, _ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: folder {path.parent} does not exist")
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; allowed: a file")


def write_page(path: Path, text: str) -> None:
    """Write a page; it appears whole, and replaces the one that was there."""
    # A lone surrogate in a column or file name must not cost the page.
    write_text(path, text, errors="replace")


def _lines(parts: Iterable[Html]) -> str:
    return "\n".join(part for part in parts if part)


# Charts use these color names too, so they follow the reader's setting.
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d2026; --soft: #5a6070;
  --line: #d5d8de; --fill: #3557c7; --warn: #b45309; --warned: #fdf3e3; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161b; --ink: #eceef3; --soft: #a4abba; --line: #3a3f4b; --fill: #8ea6ff;
    --warn: #f0b35a; --warned: #2a2318; }
}
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2.25rem; }
p, li { max-width: 44rem; overflow-wrap: anywhere; } ul { padding-left: 1.2rem; }
p, figcaption, thead th, small { color: var(--soft); } a { color: var(--fill); }
.warning { margin: 1rem 0; padding: .6rem .9rem; border-left: 4px solid var(--warn);
  background: var(--warned); color: var(--ink); }
code { font-family: ui-monospace, monospace; font-size: .9em; }
figure { margin: 1.25rem 0 0; } figcaption { margin-bottom: .25rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  column-gap: 1.5rem; }
.panels.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); }
.wide { overflow-x: auto; margin: .9rem 0; } table { border-collapse: collapse; }
th, td { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-weight: 400; font-variant-numeric: tabular-nums; }
thead th { vertical-align: bottom; }
tbody th { text-align: left; white-space: pre-wrap; min-width: 5.5rem; }
small { display: block; font-size: .75rem; line-height: 1.2; white-space: nowrap; }
tbody th small { white-space: normal; min-width: 9rem; max-width: 18rem; }
svg { display: block; max-width: 100%; height: auto; stroke-linejoin: round; }
"""
