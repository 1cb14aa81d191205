"""Preprocessing of one text: the same for training, evaluation, prediction and serving.

Must not know where a text came from, what its label is, or how it is tokenized.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import ftfy
from ftfy.badness import is_bad

from mbti_ray.data.mask import mask_text
from mbti_ray.errors import one_line

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# With the zero-width space, the word joiner and the BOM, but not the joiner inside emoji.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]+")
# What ftfy calls bad has one of these; dashes, quotes and emoji alone never are.
_SUSPICIOUS = re.compile("[\x80-\u200a\u2020-\u2025\u2027-\u25ff\uf8ff\ufb01\ufb02\ufffd]")
_VISIBLE_ASCII = re.compile("[!-~]")
# Invisible, though letters or symbols by category: the fillers of Hangul, the empty Braille cell.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# White space, control and format characters, marks without a letter below them.
_INVISIBLE = ("Z", "Cc", "Cf", "Co", "Cs", "M")


def repair_encoding(text: str) -> str:
    """The text with mojibake and bytes of another encoding repaired; clean text is unchanged.

    Bytes that were not UTF-8 (as ``errors="surrogateescape"`` leaves them) are decoded as
    Windows-1252. ftfy repairs mojibake where its badness heuristic finds any.
    """
    if text.isascii():
        return text
    text = _LONE_SURROGATE.sub(_decode_byte, text)
    return str(ftfy.fix_encoding(text)) if _SUSPICIOUS.search(text) and is_bad(text) else text


def repaired_line(message: object, *, limit: int = 200) -> str:
    """A message that quotes data: one line, with the encoding repaired."""
    return one_line(repair_encoding(str(message)), limit=limit)


def clean_text(text: str, *, is_repaired: bool = False) -> str:
    """Encoding repaired, Unicode in NFC, each run of control characters and white space a space.

    A text that `repair_encoding` has read (`is_repaired`) is not read by it again.
    """
    text = unicodedata.normalize("NFC", text if is_repaired else repair_encoding(text))
    # Most texts are: no control character and no white space but " " is printable.
    if text.isprintable():
        return " ".join(text.split()) if "  " in text else text.strip()
    return " ".join(_CONTROL.sub(" ", text).split())


def has_content(text: str) -> bool:
    """Whether a model has anything to read in a text: a visible character is left by `clean_text`.

    The one rule for training data, prediction and HTTP.
    """
    # Repairs of the encoding change no ASCII character, so most texts need no cleaning here.
    return _VISIBLE_ASCII.search(text) is not None or any(
        c not in _FILLERS and not unicodedata.category(c).startswith(_INVISIBLE)
        for c in clean_text(text)
    )


def preprocess_text(text: str, *, mask: bool, also: Sequence[str] = ()) -> str:
    """The text as the model reads it: `clean_text`, then `mask_text` if ``mask``."""
    text = clean_text(text)
    return mask_text(text, also) if mask else text


def find_words(text: str) -> list[str]:
    """The words of a text in lower case, of two characters or more, as scikit-learn finds them.

    Unlike there, vowel signs belong to words, and where a script has no spaces between words, each
    character is one.
    """
    words: list[str] = _word_patterns()[0].findall(text.lower())
    return words


def find_word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are as people see them: `I'd`, `well-read`, an emoji."""
    return [match.span() for match in _word_patterns()[1].finditer(text)]


@cache
def _word_patterns() -> tuple[Any, Any]:
    """What `find_words` and `find_word_spans` find."""
    # It knows Unicode's properties. Whoever only cleans texts does not wait for it.
    import regex

    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=SA}"
    # A letter, digit or underscore, and what may follow it in a word: also vowel signs and accents.
    first, later = rf"[\w--[{unspaced}\p{{M}}]]", rf"[\w--[{unspaced}]]"
    part, picture = rf"{first}{later}*", r"\p{Extended_Pictographic}[\p{M}\p{Emoji_Modifier}]*"
    seen = rf"[{unspaced}]\p{{M}}*|{part}(?:['\u2019-]{part})*|{picture}(?:\u200d{picture})*"
    patterns = (rf"[{unspaced}]|{first}{later}+", seen)
    word, seen_word = (regex.compile(pattern, regex.V1) for pattern in patterns)
    return word, seen_word


def _decode_byte(match: re.Match[str]) -> str:
    byte = ord(match.group()) - 0xDC00
    if not 0x80 <= byte <= 0xFF:
        return "\N{REPLACEMENT CHARACTER}"
    return bytes([byte]).decode("cp1252", errors="replace")
