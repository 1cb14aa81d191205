"""What the model may read of a text: the one path for training, evaluation, prediction, serving.

Repairs encodings, cleans white space, then hides what `mask` hides. Must not know where a text
came from, what its label is, or how it is cut into tokens.
"""

import re
import unicodedata
from collections.abc import Sequence

import ftfy
from ftfy.badness import is_bad

from mbti_ray.data.mask import mask_text

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Zero-width space, word joiner and BOM too, but not the joiner that holds emoji together.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]+")


def repair_encoding(text: str) -> str:
    """Text with bytes of another encoding and mojibake repaired; clean text comes back as it is.

    Bytes that were not UTF-8 (as ``errors="surrogateescape"`` leaves them) are read as
    Windows-1252. Mojibake goes through ftfy where its badness heuristic finds some.
    """
    if text.isascii():
        return text
    text = _LONE_SURROGATE.sub(_character_meant, text)
    return str(ftfy.fix_encoding(text)) if is_bad(text) else text


def clean_text(text: str) -> str:
    """Encoding repaired, Unicode NFC, control characters and white space runs one space."""
    text = unicodedata.normalize("NFC", repair_encoding(text))
    return " ".join(_CONTROL.sub(" ", text).split())


def preprocess_text(text: str, *, mask: bool, also: Sequence[str] = ()) -> str:
    """What the model reads: `clean_text`, then `mask_text` if ``mask``."""
    text = clean_text(text)
    return mask_text(text, also) if mask else text


def _character_meant(match: re.Match[str]) -> str:
    byte = ord(match.group()) - 0xDC00
    if not 0x80 <= byte <= 0xFF:
        return "\N{REPLACEMENT CHARACTER}"
    return bytes([byte]).decode("cp1252", errors="replace")
