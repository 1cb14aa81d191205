"""`python -m mbti_ray.audit`: what is in a data file, before anything is trained on it.

Shows what `data.audit` counted, on the screen and as a page that loads nothing from elsewhere.
"""

import argparse
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.markup import escape as unmarked
from rich.table import Table

from mbti_ray.cli import Result, build_parser, console, progress_bar, run_command, split_base
from mbti_ray.config import PRESETS, RunConfig, load_run
from mbti_ray.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mbti_ray.data.audit import Audit, Bin

_ENDINGS = (".html",)
# A name, a length in any unit, and the length as people read it.
Bar = tuple[str, float, str]


class Section(NamedTuple):
    """A heading, and rows that each begin with a name; `header` names the other columns."""

    heading: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = build_parser(
        "audit",
        "Say what is in a data file: shares, lengths, repeats across the split, and how far the "
        "texts\ngive their own label away. Without arguments: the built-in corpus.",
        items=f"a preset ({', '.join(PRESETS)}; default: quick) or FILE.yaml, data.source=FILE "
        "and other key=value",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="also write a page with the same figures"
    )
    return run_command(parser, _audit, argv)


def _audit(options: argparse.Namespace) -> Result:
    config = load_run(*split_base(options.items))
    if options.output is not None:
        _check_output(options.output)

    from mbti_ray.data.audit import audit
    from mbti_ray.data.sources import read_source

    source = read_source(config.data.source, max_bad_share=config.data.max_bad_share)
    with progress_bar("tokenising", sum(len(row.posts) for row in source.rows)) as advance:
        found = audit(config, source, advance=advance)
    console.print(f"[bold]{unmarked(found.source)}[/bold] {found.fingerprint}", soft_wrap=True)
    sections = list(_sections(found, config))
    for section in sections:
        _print_section(section)
    if options.output is not None:
        _write_whole(options.output, _page(found, sections))
        console.print(f"page: {unmarked(str(options.output))}")
    return found.as_dict()


def _check_output(path: Path) -> None:
    """Raise ConfigError unless a page can be written there, before any work is done."""
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f'--output {path}: ending "{path.suffix}" is not known; allowed: '
            f"{', '.join(_ENDINGS)}{nearest(path.suffix, _ENDINGS)}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: folder {path.parent} does not exist")
    if path.is_dir():
        raise ConfigError(f"--output {path}: is a folder; allowed: a file")


def _write_whole(path: Path, page: str) -> None:
    aside = path.with_name(f".{path.name}.part")
    try:
        # A lone surrogate in a column or file name is no reason to lose the page.
        aside.write_text(page, "utf-8", errors="replace")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _sections(found: "Audit", config: RunConfig) -> Iterator[Section]:
    """All figures as text, for the screen and the page."""
    content = [
        ("users (rows that can be used)", f"{found.users:,}"),
        ("posts", f"{found.posts:,}"),
        ("authors", f"{found.authors:,}" if found.authors else "not named"),
        ("bad rows", f"{found.rows - found.users:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in found.bad_rows.items()),
    ]
    yield Section("content", ("",), [*content])
    shares = (
        ("always giving the commonest type is right for", found.majority),
        ("name any type in a post", found.names_a_type),
        ("name their own type in a post", found.names_own_type),
        ("giving the type they mention most is right for", found.most_mentioned_rule),
        ("the same after masking (leaks unless as the first)", found.most_mentioned_rule_masked),
    )
    rows = [(name, _percent(share)) for name, share in shares]
    yield Section("how far texts give their label away", ("of users",), [*rows])
    poles = zip(found.pole_shares.items(), found.pos_weight, strict=True)
    yield Section(
        "poles",
        ("of users", f"pos_weight (by {config.data.unit})"),
        [(p, _percent(s), "-" if w is None else f"{w:.3f}") for (p, s), w in poles],
    )
    types = [(t, f"{s * found.users:,.0f}", _percent(s)) for t, s in found.type_shares.items()]
    yield Section("types", ("users", "share"), [*types])
    yield _lengths(found, config.model.max_tokens)
    yield _repeats(found, config)


def _lengths(found: "Audit", max_tokens: int) -> Section:
    rows = [
        (
            f"of a {unit}",
            *(f"{n:,}" for n in (lengths.min, lengths.median, lengths.p90, lengths.p99)),
            f"{lengths.max:,}",
            _percent(lengths.longer),
        )
        for unit, lengths in found.tokens.items()
    ]
    header = ("least", "median", "90 %", "99 %", "most", f"more than a window of {max_tokens}")
    return Section("tokens", header, [*rows])


def _repeats(found: "Audit", config: RunConfig) -> Section:
    repeats = found.repeats
    rows = [
        ("texts that occur more than once", f"{repeats.texts:,}"),
        ("posts with such a text", f"{repeats.posts:,}"),
    ]
    if found.splits is None:
        rows.append(("across the split", f"no split: {found.split_problem}"))
    else:
        sizes = ", ".join(f"{name} {n:,}" for name, n in found.splits.items())
        rows += [
            (f"split ({config.data.unit}s)", sizes),
            ("posts in val and test", f"{repeats.held_out:,}"),
            ("  also in train, as written", f"{repeats.across:,}"),
            ("  also in train, by letters and digits", f"{repeats.near_across:,}"),
        ]
    return Section("repeats", ("",), [*rows])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _print_section(section: Section) -> None:
    table = Table(box=None, pad_edge=False, title_justify="left", show_header=any(section.header))
    table.add_column("")
    for name in section.header:
        table.add_column(name, justify="right")
    for row in section.rows:
        table.add_row(*map(unmarked, row))
    console.print(f"\n[bold]{section.heading}[/bold]")
    console.print(table)


def _page(found: "Audit", sections: Sequence[Section]) -> str:
    """The whole page: it asks for nothing, and follows the reader's light or dark setting."""
    pictures = {
        "types": _bars(
            "share of users", [(t, s, _percent(s)) for t, s in found.type_shares.items()]
        ),
        "tokens": "".join(
            _bars(f"{unit}s by number of tokens", _bins(lengths.histogram))
            for unit, lengths in found.tokens.items()
        ),
    }
    parts = [
        f"<section><h2>{escape(s.heading)}</h2>{_html_table(s)}{pictures.get(s.heading, '')}"
        "</section>"
        for s in sections
    ]
    name = escape(found.source)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>audit of {name}</title><link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{name}</h1>"
        f"<p>fingerprint {found.fingerprint}</p>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _html_table(section: Section) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in ("", *section.header))
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in section.rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if any(section.header) else ""
    return f'<div class="wide"><table>{thead}<tbody>{body}</tbody></table></div>'


def _bins(histogram: Sequence["Bin"]) -> list[Bar]:
    return [
        (f"{b.first:,}" + f" to {b.last:,}" * (b.last > b.first), b.count, f"{b.count:,}")
        for b in histogram
    ]


def _bars(caption: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars as inline SVG, each with its name before and its length behind."""
    scale = 380 / max(length for _, length, _ in bars)
    height = 20 * len(bars)
    drawn = "".join(
        f'<text x="110" y="{20 * k + 14}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="118" y="{20 * k + 3}" width="{scale * length:.1f}" height="14" rx="2"/>'
        f'<text x="{124 + scale * length:.1f}" y="{20 * k + 14}">{label}</text>'
        for k, (name, length, label) in enumerate(bars)
    )
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><svg viewBox="0 0 570 {height}" '
        f'role="img" aria-label="{escape(caption)}">{drawn}</svg></figure>'
    )


_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --ink: #1d2026; --soft: #5a6070;
  --line: #d5d8de; --fill: #3557c7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14161b; --ink: #eceef3; --soft: #a4abba; --line: #3a3f4b; --fill: #8ea6ff; }
}
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, figcaption, thead th { color: var(--soft); } figure { margin: 1.25rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right;
  font-weight: 400; font-variant-numeric: tabular-nums; }
tbody th { text-align: left; white-space: pre-wrap; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg rect { fill: var(--fill); }
"""


if __name__ == "__main__":
    raise SystemExit(main())
