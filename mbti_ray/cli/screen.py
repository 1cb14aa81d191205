"""What all commands print to: consoles that show text as it is, and never obey what is in it.

Data, file names and messages of other programs may contain terminal escapes, rich's markup or
names of emojis. Must not know what is printed.
"""

import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

# Controls but tab and newline, and those that reorder text, which could hide what follows.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with a visible sign in place of each control character."""
    return _CONTROL.sub(lambda c: chr(0x2400 + ord(c[0])) if c[0] < " " else "\ufffd", text)


def print_error(text: str) -> None:
    """A line on standard error, on a terminal wrapped between words."""
    if sys.stderr.isatty():
        text = wrap(text, build_console(stderr=True).width)
    print(printable(text), file=sys.stderr, flush=True)


def wrap(text: str, width: int, *, indent: int = 2) -> str:
    """The text in lines of at most that width; longer words stay whole, to be copied."""
    return textwrap.fill(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def build_console(**options: Any) -> Console:
    """A console for plain text, tables and `rich.text.Text`."""
    built = Console(markup=False, emoji=False, highlight=False, **options)
    built.push_render_hook(_ShowControls())
    return built


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(renderable) for renderable in renderables]


class _Printable:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for text, style, control in segments:
            # Rich's own escapes are in the style and in control segments.
            yield Segment(text if control else printable(text), style, control)
